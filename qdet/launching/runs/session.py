"""A run from the outside: its name and folder, its MLflow run, and how it says that it ended.

The driver opens a session before the first worker starts, so that workers find the MLflow run made and its
database migrated; the worker of rank 0 joins the same MLflow run, again after every restart.
"""

import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from qdet.checkpoint import RunFolder, open_folder
from qdet.checkpoint.run_folder import METRIC, best_first
from qdet.config import flatten
from qdet.errors import QdetError
from qdet.job import Job
from qdet.launching import paths
from qdet.launching.paths import spool_folder
from qdet.launching.runs import record
from qdet.launching.runs.prepared import Prepared
from qdet.launching.runs.report import Outcome, keep_picture
from qdet.launching.runs.witness import witnessed
from qdet.masking import mask
from qdet.tracking import MLflowTracker, NullTracker, Status, Tracker
from qdet.tracking.loggers import SeveralTrackers, open_loggers
from qdet.training.reporting import Run

FIRST_ANSWER = 30.0
"""Seconds that the driver waits for MLflow; the first use of a database creates its tables."""
SYSTEM_METRICS_EVERY = 10.0  # seconds


@dataclass(frozen=True)
class Session:
    """An open run."""

    run: Run
    tracker: Tracker

    def outcome(self, step: int, metrics: Mapping[str, float]) -> Outcome:
        """Say how the run ended."""
        run_id, uri = self.run.mlflow_run_id, paths.tracking_uri()
        run = RunFolder(open_folder(self.run.store).child(self.run.name))
        manifests = run.manifests()
        best = next(iter(best_first(manifests)), None)
        return Outcome(
            run=self.run.name,
            folder=paths.shorten(mask(run.folder.url)),
            step=step,
            metrics=metrics,
            mlflow_run_id=run_id,
            tracking_uri=mask(uri),
            picture=keep_picture(run_id, uri, run.folder.url) if run_id else None,
            best=None if best is None else str(run.at(best)),
            best_ap=None if best is None else manifests[best].metrics.get(METRIC),
        )


@contextmanager
def open_session(
    prepared: Prepared, *, parent: str | None = None, tags: Mapping[str, str] | None = None
) -> Iterator[Session]:
    """Open the run of a job in its store and in MLflow; leaving marks it FINISHED, FAILED or KILLED.

    Args:
        prepared: The job, its datasets and which run it is.
        parent: MLflow run that this one is shown under.
        tags: Further tags of the MLflow run.

    Raises:
        ConfigError: The run to resume is not in the store, a new one is, or the store cannot be written to.
    """
    launched = time.time()
    job, name, resumed = prepared.job, prepared.run.name, prepared.run.resumed
    tracker = MLflowTracker.open(
        spool_folder(name, "driver"),
        experiment=job.track.experiment,
        run_name=name,
        run_hash=prepared.run.hash,
        run_id=resumed.mlflow_run_id if resumed else None,
        parent_run_id=parent,
        tags=tags,
        tracking_uri=paths.tracking_uri(),
    )
    with report_run_status(tracker):
        run_id = tracker.wait_for_run(FIRST_ANSWER)
        _log_inputs(tracker, prepared)
        uri = paths.tracking_uri()
        if resumed is None:
            new = record.RunRecord.new(prepared.run, job, mlflow_run_id=run_id, tracking_uri=mask(uri))
            record.write(job.store.path, new)
        run = Run(
            name=name,
            store=job.store.path,
            mlflow_run_id=run_id,
            hash=prepared.run.hash,
            launched=launched,
        )
        with witnessed(run, job.track.experiment, uri), _recorded_status(run):
            yield Session(run, tracker)


@contextmanager
def _recorded_status(run: Run) -> Iterator[None]:
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
        record.set_status(run.store, run.name, status)


@contextmanager
def join_session(job: Job, run: Run, *, rank: int) -> Iterator[Tracker]:
    """Log into a run that the driver has opened: rank 0 to MLflow and `--track.loggers`, the others nowhere.

    The MLflow run stays open when the worker leaves; how it ended is the driver's to say.
    """
    if rank != 0:
        yield NullTracker()
        return
    mlflow = MLflowTracker.open(
        spool_folder(run.name, "worker"),
        experiment=job.track.experiment,
        run_name=run.name,
        run_hash=run.hash,
        run_id=run.mlflow_run_id,
        tracking_uri=paths.tracking_uri(),
        system_metrics=SYSTEM_METRICS_EVERY if job.track.system_metrics else None,
    )
    tracker = _add_loggers(mlflow, job, run)
    try:
        yield tracker
    finally:
        tracker.close()


def _add_loggers(tracker: Tracker, job: Job, run: Run) -> Tracker:
    """Return a tracker that also logs to `--track.loggers`."""
    if not job.track.loggers:
        return tracker
    folder, scratch = open_folder(run.store).child(run.name), spool_folder(run.name, "loggers")
    others = open_loggers(
        job.track.loggers, experiment=job.track.experiment, run=run.name, folder=folder, scratch=scratch
    )
    several = SeveralTrackers(tracker, others)
    several.params(flatten(job))
    return several


@contextmanager
def report_run_status(tracker: Tracker) -> Iterator[None]:
    """Close `tracker` with how the block ended: FINISHED, KILLED by a signal, or FAILED with its cause."""
    status: Status = "FAILED"
    try:
        with _termination_raises():
            yield
        status = "FINISHED"
    except (KeyboardInterrupt, SystemExit):
        status = "KILLED"
        raise
    except Exception as error:
        tracker.tags({"qdet.cause": str(error) if isinstance(error, QdetError) else repr(error)})
        raise
    finally:
        # A scheduler that sent SIGTERM kills within seconds.
        tracker.close(status, wait=3.0 if status == "KILLED" else 15.0)


def _log_inputs(tracker: Tracker, prepared: Prepared) -> None:
    data = prepared.job.data
    tracker.params(flatten(prepared.job))
    for address, info, context in (
        (data.train, prepared.train, "training"),
        (data.val, prepared.val, "validation"),
    ):
        if info.digest is not None:  # of third-party shards behind a URL only workers will know it
            tracker.dataset(Path(address).name, info.digest, mask(address), context)
    script = Path(getattr(sys.modules["__main__"], "__file__", None) or "")
    if script.suffix == ".py" and script.is_file():
        tracker.text(script.read_text(), f"job/{script.name}")


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
