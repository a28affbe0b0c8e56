"""A run from the outside: its name and folder, its MLflow run, and how it says that it ended.

The driver opens a session before the first worker starts, so that workers find the MLflow run made and its
database migrated; the worker of rank 0 joins the same MLflow run, again after every restart.
"""

import hashlib
import json
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qdet.checkpoint import Manifest, RunFolder, open_folder
from qdet.checkpoint.run_folder import METRIC, best_of
from qdet.config import flatten
from qdet.errors import QdetError, TrackingError
from qdet.job import Job
from qdet.launching import paths
from qdet.launching.paths import spool_folder
from qdet.launching.runs import note, record
from qdet.launching.runs.claim import hold_run
from qdet.launching.runs.place import Place
from qdet.launching.runs.prepared import Prepared
from qdet.launching.runs.report import Outcome, keep_picture
from qdet.launching.runs.status import record_status, report_run_status
from qdet.launching.runs.witness import witnessed
from qdet.masking import mask
from qdet.storage.lease import Hold
from qdet.tracking import MLflowTracker, NullTracker, Tracker, prepare_database
from qdet.tracking.loggers import SeveralTrackers, open_loggers
from qdet.tracking.values import stable
from qdet.training.reporting import Run

FIRST_ANSWER = 30.0
"""Seconds that the driver waits for MLflow; the first use of a database creates its tables."""
SYSTEM_METRICS_EVERY = 10.0  # seconds
TITLE_TAG = "mlflow.runName"
"""MLflow's tag for the name that it shows."""


@dataclass(frozen=True)
class Session:
    """An open run."""

    run: Run
    tracker: Tracker
    about: str = ""
    """What its description in MLflow begins with."""
    held: Hold | None = None
    """Its lease; None of a session that only looks."""

    def when_lost(self, call: Callable[[], None]) -> None:
        """Have `call` called, on any thread, once another driver has taken over the run."""
        if self.held is not None:
            self.held.when_lost(call)

    def check_lease(self) -> None:
        """Raise LeaseError if another driver has taken over the run."""
        if self.held is not None and self.held.lost:
            self.held.check()

    @property
    def folder(self) -> str:
        """The run's folder as a user types it."""
        return paths.shorten(mask(f"{self.run.store}/{self.run.name}"))

    def find_best(self) -> Manifest | None:
        """Return the run's best checkpoint; None where there is none, or its store does not answer."""
        try:
            return best_of(RunFolder(open_folder(self.run.store).child(self.run.name)).manifests())
        except (QdetError, OSError):
            return None

    def describe_results(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add the results to the run's description in MLflow."""
        best = self.find_best()
        results = note.describe_results(
            metrics, step=step, folder=self.folder, best=None if best is None else best.step
        )
        self.tracker.tags({note.TAG: f"{results}\n\n{self.about}".strip()})

    def outcome(self, step: int, metrics: Mapping[str, float]) -> Outcome:
        """Say how the run ended, in MLflow too."""
        self.describe_results(step, metrics)
        run_id, uri = self.run.mlflow_run_id, paths.tracking_uri()
        folder, best = open_folder(self.run.store).child(self.run.name), self.find_best()
        return Outcome(
            run=self.run.name,
            folder=self.folder,
            step=step,
            metrics=metrics,
            mlflow_run_id=run_id,
            tracking_uri=mask(uri),
            picture=keep_picture(run_id, uri, folder.url) if run_id else None,
            best=None if best is None else str(RunFolder(folder).at(best.step)),
            best_ap=None if best is None else best.metrics.get(METRIC),
        )


@contextmanager
def open_session(
    prepared: Prepared,
    *,
    parent: str | None = None,
    tags: Mapping[str, str] | None = None,
    title: str | None = None,
) -> Iterator[Session]:
    """Open the run of a job in its store and in MLflow; leaving marks it FINISHED, FAILED or KILLED.

    It begins once this process holds the run's lease. A run that another driver has taken over meanwhile is
    left to that one.

    Args:
        prepared: The job, its datasets and which run it is.
        parent: MLflow run that this one is shown under.
        tags: Further tags of the MLflow run.
        title: Name that MLflow shows instead of the run's.

    Raises:
        ConfigError: The run to resume is not in the store, a new one is, or another driver is writing it, or
            the store cannot be written to.
    """
    launched, store = time.time(), prepared.job.store
    with hold_run(store.path, prepared.run.name, take_over=store.take_over) as held:
        if held.number > 1:  # the driver before may have made, finished or changed the run since
            prepared = prepared.look_again()
        with suppress(TrackingError):  # the tracker says it too, and keeps its points
            prepare_database(paths.tracking_uri())
        tracker = MLflowTracker.open(
            spool_folder(prepared.run.name, "driver"),
            parent_run_id=parent,
            tags=_run_tags(prepared) | dict(tags or {}),
            **_which_run(prepared),
        )
        with report_run_status(tracker, held):
            run_id = tracker.wait_for_run(FIRST_ANSWER)
            about = note.describe_process() or title or ""
            _log_inputs(tracker, prepared)
            if title or prepared.run.resumed is None:
                tracker.tags({note.TAG: about} | ({TITLE_TAG: title} if title else {}))
            _write_record(prepared, run_id)
            run = Run(
                name=prepared.run.name,
                store=store.path,
                mlflow_run_id=run_id,
                hash=prepared.run.hash,
                launched=launched,
                fence=held.fence,
            )
            with (
                witnessed(run, prepared.job.track.experiment, paths.tracking_uri()),
                record_status(run, held),
            ):
                yield Session(run, tracker, about, held)


def _which_run(prepared: Prepared) -> dict[str, Any]:
    """Return how MLflow knows a run."""
    run = prepared.run
    return {
        "experiment": prepared.job.track.experiment,
        "run_name": run.name,
        "run_hash": run.hash,
        "run_id": run.resumed.mlflow_run_id if run.resumed else None,
        "tracking_uri": paths.tracking_uri(),
    }


def _write_record(prepared: Prepared, run_id: str | None) -> None:
    """Record a new run, and which validation set a run is evaluated on."""
    known, uri, digest = prepared.run.resumed, mask(paths.tracking_uri()), prepared.val.digest
    if known is None:
        new = record.RunRecord.new(prepared.run, prepared.job, mlflow_run_id=run_id, tracking_uri=uri)
        record.write(prepared.job.store.path, replace(new, val_digest=digest))
    elif digest is not None and digest != known.val_digest:
        if known.val_digest is not None:
            print(
                f"resuming with another validation set, --data.val {mask(prepared.job.data.val)}: val/AP "
                "before and after cannot be compared, but the best checkpoint and early stopping do",
                flush=True,
            )
        record.write(prepared.job.store.path, replace(known, val_digest=digest))


@contextmanager
def join_session(job: Job, run: Run, place: Place) -> Iterator[Tracker]:
    """Log into a run that the driver has opened: rank 0 to MLflow and `--track.loggers`.

    The first process of every machine logs the use of its CPUs and GPUs. The MLflow run stays open when the
    worker leaves; how it ended is the driver's to say.
    """
    system_metrics = SYSTEM_METRICS_EVERY if job.track.system_metrics and place.local_rank == 0 else None
    if place.rank != 0 and system_metrics is None:
        yield NullTracker()
        return
    mlflow = MLflowTracker.open(
        spool_folder(run.name, "worker" if place.rank == 0 else f"worker-{place.rank}"),
        experiment=job.track.experiment,
        run_name=run.name,
        run_hash=run.hash,
        run_id=run.mlflow_run_id,
        tracking_uri=paths.tracking_uri(),
        system_metrics=system_metrics,
        node=place.node,
    )
    if place.node:
        mlflow.tags({f"qdet.{place.node}": socket.gethostname()})
    tracker = _add_loggers(mlflow, job, run) if place.rank == 0 else mlflow
    try:
        yield tracker if place.rank == 0 else NullTracker()
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


def _run_tags(prepared: Prepared) -> dict[str, str]:
    """Return what tells runs of one job apart: when each was started, and a digest of its settings."""
    settings = json.dumps(flatten(prepared.job), sort_keys=True, default=stable).encode()
    return {
        "qdet.job": prepared.job.name,
        "qdet.started": time.strftime("%Y-%m-%d %H:%M:%S"),
        "qdet.settings": hashlib.sha256(settings).hexdigest()[:8],
    }


def _log_inputs(tracker: Tracker, prepared: Prepared) -> None:
    data = prepared.job.data
    tracker.params(flatten(prepared.job))
    for address, info, context in (
        (data.train, prepared.train, "training"),
        (data.val, prepared.val, "validation"),
    ):
        if info.digest is not None:  # of third-party shards behind a URL only workers will know it
            counts = {"images": info.images, "classes": info.categories and len(info.categories.names)}
            sizes = {name: count for name, count in counts.items() if count}
            tracker.dataset(Path(address).name, info.digest, mask(address), context, sizes)
    if script := note.job_file():
        tracker.text(script.read_text(encoding="utf-8", errors="replace"), f"job/{script.name}")
