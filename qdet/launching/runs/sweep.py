"""A sweep in MLflow: the run that its trials are shown under."""

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from qdet.config import flatten
from qdet.errors import TrackingError
from qdet.job import Job, Sweep
from qdet.launching import paths
from qdet.launching.runs.session import FIRST_ANSWER, ended_truthfully, spool_folder
from qdet.launching.sweep_table import TrialRow, best_first
from qdet.tracking import MLflowTracker, Tracker, send_spool


@dataclass(frozen=True)
class SweepSession:
    """An open sweep."""

    name: str
    experiment: str
    mlflow_run_id: str | None
    tracker: Tracker

    def finish_trials(self, rows: Sequence[TrialRow]) -> None:
        """End the MLflow runs of trials whose drivers could not: the scheduler stopped them, or they died."""
        for row in rows:
            name = trial_name(self.name, row.trial)
            # What a stopped worker had not sent yet, where it ran on this machine.
            with contextlib.suppress(TrackingError):
                send_spool(spool_folder(name, "worker"))
            tracker = MLflowTracker.open(
                spool_folder(name, "sweep"),
                experiment=self.experiment,
                run_name=name,
                parent_run_id=self.mlflow_run_id,
                tracking_uri=paths.tracking_uri(),
            )
            tracker.tags({"qdet.trial_state": row.state})
            tracker.close("FAILED" if row.state == "failed" else "FINISHED")

    def log(self, rows: Sequence[TrialRow], metric: str) -> None:
        """Keep the table of results, and the best of them as the sweep's own metric."""
        ranked = best_first(rows)
        columns: dict[str, Sequence[object]] = {
            "trial": [row.trial for row in ranked],
            metric: [row.metric for row in ranked],
            "state": [row.state for row in ranked],
        }
        settings = ranked[0].settings if ranked else {}
        columns |= {path: [row.settings.get(path) for row in ranked] for path in settings}
        self.tracker.table(columns, "trials.json")
        if ranked and ranked[0].metric is not None:
            self.tracker.metrics({f"best/{metric}": ranked[0].metric}, ranked[0].step or 0)


@contextmanager
def open_sweep(job: Job, sweep: Sweep, name: str) -> Iterator[SweepSession]:
    """Open the MLflow run of a sweep; leaving marks it FINISHED, FAILED or KILLED."""
    tracker = MLflowTracker.open(
        spool_folder(name, "sweep"),
        experiment=job.track.experiment,
        run_name=name,
        tags={"qdet.sweep": "true"},
        tracking_uri=paths.tracking_uri(),
    )
    with ended_truthfully(tracker):
        run_id = tracker.wait_for_run(FIRST_ANSWER)
        tracker.params(flatten(job) | _space(sweep))
        yield SweepSession(name, job.track.experiment, run_id, tracker)


def trial_name(sweep: str, trial: str) -> str:
    """Return the name of a trial's run."""
    return f"{sweep}-{trial}"


def _space(sweep: Sweep) -> dict[str, Any]:
    return {f"sweep.space.{path}": str(space) for path, space in sweep.space.items()} | {
        f"sweep.{name}": getattr(sweep, name) for name in ("metric", "trials", "concurrent", "grace_epochs")
    }
