"""One rank of a reproduction: `python -m qdet.launching.reproducing.worker FILE`."""

import json
import os
import sys
from pathlib import Path

from qdet.config import restore
from qdet.job import Job
from qdet.launching.exit_status import exit_on_user_error
from qdet.tracking import NullTracker
from qdet.training.loop import train
from qdet.training.reporting import LocalReporter, PlainLines, Progress, Run


class StopAfter(PlainLines):
    """Prints progress, and asks for a stop after some steps.

    Args:
        steps: How many.
    """

    def __init__(self, steps: int) -> None:
        super().__init__()
        self._steps, self._step = steps, 0

    def progress(self, progress: Progress) -> None:
        """Print one line of each step that is compared."""
        self._step = progress.step
        if progress.step <= self._steps:
            super().progress(progress)

    def due(self) -> bool:
        """Whether they are done."""
        return self._step >= self._steps


def train_again(file: Path) -> None:
    """Train as a rank what `file` describes: job, run name and steps, in JSON."""
    plan = json.loads(file.read_text())
    job, main = restore(Job, plan["job"]), os.environ.get("RANK", "0") == "0"
    display = StopAfter(plan["steps"])
    reporter = LocalReporter(display.due, display) if main else LocalReporter(display=None)
    train(job, run=Run(plan["run"], job.store.path), reporter=reporter, tracker=NullTracker())


if __name__ == "__main__":
    exit_on_user_error(lambda: train_again(Path(sys.argv[1])))
