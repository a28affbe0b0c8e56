"""How a run ended, as its block is left: in MLflow and in its record."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from qdet.errors import QdetError
from qdet.launching.runs import record
from qdet.storage.lease import Hold
from qdet.tracking import Status, Tracker
from qdet.training.reporting import Run


@contextmanager
def record_status(run: Run, held: Hold) -> Iterator[None]:
    """Keep in the run's record how the block is doing, for `qdet runs`."""
    record.set_status(run.store, run.name, "running")
    status = "failed"
    try:
        yield
        status = "finished"
    except (KeyboardInterrupt, SystemExit):
        status = "stopped"
        raise
    finally:
        if not held.has_lost():  # else the record is another driver's
            record.set_status(run.store, run.name, status)


@contextmanager
def report_run_status(tracker: Tracker, held: Hold | None = None) -> Iterator[None]:
    """Close `tracker` with how the block ended: FINISHED, KILLED by a signal, or FAILED with its cause.

    Where another driver has taken over, the run's status is that one's to say.
    """
    status: Status = "FAILED"
    try:
        with _termination_raises():
            yield
        status = "FINISHED"
    except (KeyboardInterrupt, SystemExit):
        status = "KILLED"
        raise
    except Exception as error:
        if not _has_lost(held):
            tracker.tags({"qdet.cause": str(error) if isinstance(error, QdetError) else repr(error)})
        raise
    finally:
        # A scheduler that sent SIGTERM kills within seconds.
        tracker.close(None if _has_lost(held) else status, wait=3.0 if status == "KILLED" else 15.0)


def _has_lost(held: Hold | None) -> bool:
    return held is not None and held.has_lost()


@contextmanager
def _termination_raises() -> Iterator[None]:
    """Turn SIGTERM into SystemExit, which `finally` blocks see; only a process's main thread can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, _: FrameType | None) -> Any:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
