"""One rank of a training that spans two hosts.

    python -m tests.support.host_rank RANK ADDRESS SHARDS STORE STEPS TIMEOUT

`STORE/step` says how far it is, and every step takes a while, so that a test can cut the link in the middle.
"""

import os
import sys
import time
from pathlib import Path

from qdet.tracking import NullTracker
from qdet.training import loop
from qdet.training.reporting import LocalReporter, Progress, Run
from tests.support.ranks import tiny_job


class Slowly(LocalReporter):
    """Says how far training is, in a file of its own, and takes a while for every step."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._file = file

    def progress(self, progress: Progress) -> None:
        super().progress(progress)
        self._file.write_text(str(progress.step))
        time.sleep(0.3)


def main() -> None:
    rank, address, shards, store, steps, timeout = sys.argv[1:]
    os.environ |= {"RANK": rank, "LOCAL_RANK": "0", "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": address, "MASTER_PORT": "29511", "QDET_JOIN_SECRET": "of these ranks"}
    job = tiny_job(
        Path(shards),
        **{
            "train.workers": 2,
            "train.zero": 2,
            "train.steps": int(steps),
            "train.checkpoint_every": 5,
            "train.timeout": int(timeout),
        },
    )
    reporter = Slowly(Path(store) / "step")
    loop.train(job, run=Run(name="run", store=store), reporter=reporter, tracker=NullTracker())


if __name__ == "__main__":
    main()
