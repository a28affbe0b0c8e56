"""A copy of the data that is not the same on all machines: every second worker reads one of its own.

data/{train,val}   what the others read      copy/{train,val}   what the second reads
other/train        the same images in other shards, put in the place of copy/train
"""

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from qdet.config import override
from qdet.job import Job

DATA, COPY, OTHER = "data", "copy", "other"
COPIES = "QDET_CHAOS_COPIES"
"""Variable that says that every second worker reads the copy."""
REFUSALS = ("--data.train is not the same on all machines", "the digest of --data.train is")
"""What workers say of data that differ: at a first start, and where a worker would resume with other data."""
_STEP = re.compile(r"^\s*(?:\[\w+\]:)?step \d+/\d+", re.MULTILINE)
_POLL = 0.1


def read_own_copy(job: Job) -> Job:
    """Return the job of this worker: where its rank on this machine is odd, with the copy as its data."""
    if COPIES not in os.environ or int(os.environ.get("LOCAL_RANK", "0")) % 2 == 0:
        return job
    return override(job, {"data.train": f"{COPY}/train", "data.val": f"{COPY}/val"})


def make_copy(folder: Path) -> None:
    """Copy the shards in `folder`, as another machine has them."""
    shutil.copytree(folder / DATA, folder / COPY)


@contextmanager
def other_copy(folder: Path) -> Iterator[None]:
    """Put other shards in the place of the copy's training set within the block."""
    own, other, kept = folder / COPY / "train", folder / OTHER / "train", folder / OTHER / "kept"
    own.rename(kept)
    other.rename(own)
    try:
        yield
    finally:
        own.rename(other)
        kept.rename(own)


def watch_refusal(log: Path, start: int, alive: Callable[[], bool], seconds: float) -> list[str]:
    """Wait until workers have refused the data; return what is wrong with that.

    Args:
        log: What the run prints.
        start: Byte of it from which it counts.
        alive: Whether the launcher is still there.
        seconds: How long to wait.
    """
    until = time.monotonic() + seconds
    while True:
        waiting = alive() and time.monotonic() < until
        said = log.read_bytes()[start:].decode(errors="replace")
        if any(one in said for one in REFUSALS):
            return ["workers with different copies of the data trained"] if _STEP.search(said) else []
        if not waiting:
            return [f"workers with different copies of the data were not refused within {seconds:g} s"]
        time.sleep(_POLL)
