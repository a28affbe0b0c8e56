"""A sweep in MLflow: the run that its trials are shown under."""

import contextlib
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from qdet.config import flatten
from qdet.errors import TrackingError
from qdet.job import Job, Sweep
from qdet.launching import paths
from qdet.launching.paths import spool_folder
from qdet.launching.runs import note, record
from qdet.launching.runs.claim import hold_run
from qdet.launching.runs.session import FIRST_ANSWER
from qdet.launching.runs.status import report_run_status
from qdet.launching.runs.typed import show_value, train_command
from qdet.tracking import MLflowTracker, Tracker, prepare_database, send_spool

TITLE = 80
"""Most characters of the name that MLflow shows of a trial."""


@dataclass(frozen=True, kw_only=True)
class TrialRow:
    """One trial and how it ended."""

    trial: str
    settings: Mapping[str, Any]
    metric: float | None
    """None where the trial failed or never was evaluated."""
    step: int | None
    state: str
    """`finished`, `stopped early` or `failed`."""
    error: str | None = None


@dataclass(frozen=True)
class Swept:
    """How a sweep ended."""

    name: str
    metric: str
    rows: Sequence[TrialRow]
    mlflow_run_id: str | None

    def as_json(self) -> dict[str, Any]:
        """Return it for programs, the best trial first, numbers unrounded."""
        ranked = best_first(self.rows)
        best = ranked[0] if ranked and ranked[0].metric is not None else None
        return {
            "sweep": self.name,
            "metric": self.metric,
            "mlflow_run_id": self.mlflow_run_id,
            "best": None if best is None else asdict(best),
            "trials": [asdict(row) for row in ranked],
        }


@dataclass(frozen=True)
class SweepSession:
    """An open sweep."""

    name: str
    experiment: str
    mlflow_run_id: str | None
    tracker: Tracker
    about: str = ""
    """What its description in MLflow begins with."""

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
                run_hash=trial_hash(self.mlflow_run_id, name),
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
        best = ranked[0] if ranked and ranked[0].metric is not None else None
        if best is not None and best.metric is not None:
            self.tracker.metrics({f"best/{metric}": best.metric}, best.step or 0)
        cells = zip(*(map(show_value, column) for column in columns.values()), strict=True)
        shown = [dict(zip(columns, row, strict=True)) for row in cells]
        command = None if best is None else train_command(best.settings)
        self.tracker.tags({note.TAG: f"{note.describe_trials(shown, command)}\n\n{self.about}".strip()})


@contextmanager
def open_sweep(job: Job, sweep: Sweep, name: str) -> Iterator[SweepSession]:
    """Open the MLflow run of a sweep; leaving marks it FINISHED, FAILED or KILLED.

    It begins once this process holds the sweep's lease, as that of a run.
    """
    with hold_run(job.store.path, name, take_over=job.store.take_over) as held:
        with contextlib.suppress(TrackingError):
            prepare_database(paths.tracking_uri())
        tracker = MLflowTracker.open(
            spool_folder(name, "sweep"),
            experiment=job.track.experiment,
            run_name=name,
            run_hash=secrets.token_hex(4),
            tags={"qdet.sweep": "true"},
            tracking_uri=paths.tracking_uri(),
        )
        with report_run_status(tracker, held):
            run_id = tracker.wait_for_run(FIRST_ANSWER)
            tracker.params(flatten(job) | _space(sweep))
            about = note.describe_process()
            tracker.tags({note.TAG: about})
            yield SweepSession(name, job.track.experiment, run_id, tracker, about)


def trial_name(sweep: str, trial: str) -> str:
    """Return the name of a trial's run: the sweep's with the number at the end of Tune's name.

    >>> trial_name("tiny_sweep-swift-otter", "07fa1_00002")
    'tiny_sweep-swift-otter-2'
    """
    return f"{sweep}-{trial_number(trial)}"


def trial_hash(sweep_id: str | None, name: str) -> str:
    """Return the hash of a trial's run, by the MLflow run of its sweep and its own name."""
    return record.hash_name(f"{sweep_id} {name}")


def trial_number(trial: str) -> str:
    """Return the number at the end of Tune's name of a trial, or the name where there is none.

    >>> trial_number("07fa1_00002")
    '2'
    """
    number = trial.rpartition("_")[2]
    return str(int(number)) if number.isdecimal() else trial


def trial_title(settings: Mapping[str, Any]) -> str:
    """Return the name that MLflow shows of a trial: what it tries, by names as short as they stay unique.

    >>> trial_title({"optim.lr": 4.31e-5, "detector.queries": 20})
    'lr=4.31e-05 queries=20'
    """
    shown = " ".join(f"{_short_path(path, settings)}={show_value(value)}" for path, value in settings.items())
    return shown if len(shown) <= TITLE else f"{shown[: TITLE - 1].rstrip()}…"


def _short_path(path: str, paths: Iterable[str]) -> str:
    parts = path.split(".")
    for start in reversed(range(len(parts))):
        end = "." + ".".join(parts[start:])
        if sum(f".{other}".endswith(end) for other in paths) == 1:
            return end[1:]
    return path


def _space(sweep: Sweep) -> dict[str, Any]:
    return {f"sweep.space.{path}": str(space) for path, space in sweep.space.items()} | {
        f"sweep.{name}": getattr(sweep, name) for name in ("metric", "trials", "concurrent", "grace_epochs")
    }


def best_first(rows: Sequence[TrialRow]) -> list[TrialRow]:
    """Order trials by their metric; those without one come last."""
    return sorted(rows, key=lambda row: (row.metric is None, -(row.metric or 0.0)))


def table(rows: Sequence[TrialRow], sweep: Sweep) -> str:
    """Return the trials as aligned text, best first."""
    head = ("trial", sweep.metric, "step", "state", *sweep.space)
    cells = [
        (
            row.trial,
            "-" if row.metric is None else f"{row.metric:.4f}",
            "-" if row.step is None else str(row.step),
            row.state,
            *(show_value(row.settings.get(path, "-")) for path in sweep.space),
        )
        for row in best_first(rows)
    ]
    widths = [max(len(line[i]) for line in (head, *cells)) for i in range(len(head))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        for line in (head, *cells)
    ]
    failed = [f"{row.trial} failed: {row.error.splitlines()[0]}" for row in rows if row.error]
    return "\n".join(["", *(line.rstrip() for line in lines), *failed])
