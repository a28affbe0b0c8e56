"""A sweep in MLflow: the run that its trials are shown under, and how each of them ended."""

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from qdet.config import flatten
from qdet.errors import QdetError, TrackingError
from qdet.job import Job, Sweep
from qdet.launching import paths
from qdet.launching.paths import spool_folder
from qdet.launching.runs import note, record
from qdet.launching.runs.session import FIRST_ANSWER
from qdet.launching.runs.status import report_run_status
from qdet.launching.runs.sweeps.record import SweepFile, SweepStore
from qdet.launching.runs.sweeps.table import TrialRow
from qdet.launching.runs.witness import witnessed
from qdet.storage.lease import Hold
from qdet.tracking import MLflowTracker, Tracker, has_ended, prepare_database, send_spool
from qdet.training.reporting import Run


@dataclass(frozen=True)
class SweepSession:
    """An open sweep."""

    job: Job
    """What is trained, with paths as the user typed them."""
    sweep: Sweep
    file: SweepFile
    store: str
    """Absolute path or URL."""
    tracker: Tracker
    about: str = ""
    """What its description in MLflow begins with."""

    @property
    def mlflow_run_id(self) -> str | None:
        """The sweep's run in MLflow."""
        return self.file.mlflow_run_id

    def note_stop(self, row: TrialRow) -> None:
        """Say in the store, before anyone stops the trial's driver, that its death will be no accident."""
        record.set_status(self.store, trial_name(self.file.name, row.trial), record.STOPPED_EARLY)

    def finish_trial(self, row: TrialRow) -> None:
        """End the MLflow run of a trial that its own driver cannot end: it was stopped, or has died."""
        name = trial_name(self.file.name, row.trial)
        with contextlib.suppress(TrackingError):  # a worker that is still running sends its own
            send_spool(spool_folder(name, "worker"))
        tracker = MLflowTracker.open(
            spool_folder(name, "sweep"),
            experiment=self.job.track.experiment,
            run_name=name,
            run_hash=trial_hash(self.file, name),
            run_id=self._run_id(name),
            parent_run_id=self.mlflow_run_id,
            tracking_uri=paths.tracking_uri(),
        )
        ended = {"qdet.ended": row.state} if row.error is None else {"qdet.cause": row.error}
        tracker.tags({"qdet.trial_state": row.state} | ended)
        tracker.close("FAILED" if row.error else "FINISHED")

    def has_ended(self, label: str) -> bool:
        """Whether MLflow says that a trial is over; False where it does not answer."""
        run_id = self._run_id(trial_name(self.file.name, label))
        return run_id is not None and has_ended(run_id, paths.tracking_uri())

    def _run_id(self, name: str) -> str | None:
        """Return the MLflow run that the trial's own driver had opened."""
        with contextlib.suppress(QdetError):
            return record.read(self.store, name).mlflow_run_id
        return None


@contextmanager
def open_sweep(
    job: Job, sweep: Sweep, file: SweepFile, store: SweepStore, held: Hold
) -> Iterator[SweepSession]:
    """Open the MLflow run of a sweep, or open it again; leaving marks it FINISHED, FAILED or KILLED.

    Args:
        job: What is trained, with paths as the user typed them.
        sweep: What is searched.
        file: The sweep's record, which gets the MLflow run.
        store: Where the record is.
        held: The sweep's lease.
    """
    with contextlib.suppress(TrackingError):  # the tracker says it too, and keeps its points
        prepare_database(paths.tracking_uri())
    folder = paths.absolute(job.store.path)
    tracker = MLflowTracker.open(
        spool_folder(file.name, "sweep"),
        experiment=job.track.experiment,
        run_name=file.name,
        run_hash=file.hash,
        run_id=file.mlflow_run_id,
        tags={"qdet.sweep": "true"},
        tracking_uri=paths.tracking_uri(),
    )
    with report_run_status(tracker, held):
        run_id = tracker.wait_for_run(FIRST_ANSWER) or file.mlflow_run_id
        file = replace(file, mlflow_run_id=run_id)
        store.write(file)
        tracker.params(flatten(job) | _space(sweep))
        about = note.describe_process()
        tracker.tags({note.TAG: about})
        run = Run(name=file.name, store=folder, mlflow_run_id=run_id, hash=file.hash, fence=held.fence)
        with witnessed(run, job.track.experiment, paths.tracking_uri()):
            yield SweepSession(job, sweep, file, folder, tracker, about)


def trial_name(sweep: str, label: str) -> str:
    """Return the name of a trial's run.

    >>> trial_name("tiny_sweep-swift-otter", "t02")
    'tiny_sweep-swift-otter-t02'
    """
    return f"{sweep}-{label}"


def trial_hash(file: SweepFile, name: str) -> str:
    """Return the hash of a trial's run, by that of its sweep and its own name."""
    return record.hash_name(f"{file.hash} {name}")


def _space(sweep: Sweep) -> dict[str, Any]:
    names = (
        "metric",
        "mode",
        "search",
        "scheduler",
        "trials",
        "epochs",
        "hours",
        "concurrent",
        "grace_epochs",
        "exploit_epochs",
    )
    return {f"sweep.space.{path}": str(space) for path, space in sweep.space.items()} | {
        f"sweep.{name}": getattr(sweep, name) for name in names
    }
