"""The trials of a sweep as rows, best first: for the terminal, MLflow and programs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from qdet.job import Sweep
from qdet.launching.runs.sweeps.record import Trial
from qdet.launching.runs.typed import show_value

TITLE = 80
"""Most characters of the name that MLflow shows of a trial."""
SHORT = {"queries": "q"}
"""Names that are shorter in a trial's title than the last part of their path."""


@dataclass(frozen=True, kw_only=True)
class TrialRow:
    """One trial and how it ended."""

    trial: str
    settings: Mapping[str, Any]
    metric: float | None
    """Of its last evaluation; None where the trial failed or never was evaluated."""
    step: int | None
    state: str
    """`finished`, `stopped early`, `out of budget`, `failed`, `cannot run here` or `running`."""
    error: str | None = None

    @classmethod
    def of(cls, trial: Trial, settings: Mapping[str, Any], metric: str) -> "TrialRow":
        """Return the row of a trial."""
        last = max(trial.reports, key=lambda entry: entry.epoch, default=None)
        value = None if last is None or trial.state == "failed" else last.metrics.get(metric)
        return cls(
            trial=trial.label,
            settings=settings,
            metric=value,
            step=None if last is None else last.step,
            state=trial.state,
            error=trial.error,
        )


@dataclass(frozen=True)
class Swept:
    """How a sweep ended."""

    name: str
    metric: str
    rows: Sequence[TrialRow]
    mlflow_run_id: str | None
    mode: str = "max"

    @property
    def best(self) -> TrialRow | None:
        """The best trial; None if none was evaluated."""
        return best_of(self.rows, self.mode)

    def as_json(self) -> dict[str, Any]:
        """Return it for programs, the best trial first, numbers unrounded."""
        return {
            "sweep": self.name,
            "metric": self.metric,
            "mlflow_run_id": self.mlflow_run_id,
            "best": None if self.best is None else asdict(self.best),
            "trials": [asdict(row) for row in best_first(self.rows, self.mode)],
        }


def best_first(rows: Sequence[TrialRow], mode: str = "max") -> list[TrialRow]:
    """Order trials by their metric; those without one come last."""
    sign = -1 if mode == "max" else 1
    return sorted(rows, key=lambda row: (row.metric is None, sign * (row.metric or 0.0)))


def best_of(rows: Sequence[TrialRow], mode: str = "max") -> TrialRow | None:
    """Return the best trial; None if none was evaluated."""
    ranked = best_first(rows, mode)
    return ranked[0] if ranked and ranked[0].metric is not None else None


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
        for row in best_first(rows, sweep.mode)
    ]
    widths = [max(len(line[i]) for line in (head, *cells)) for i in range(len(head))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        for line in (head, *cells)
    ]
    failed = [f"{row.trial} {row.state}: {row.error.splitlines()[0]}" for row in rows if row.error]
    return "\n".join(["", *(line.rstrip() for line in lines), *failed])


def trial_title(label: str, settings: Mapping[str, Any]) -> str:
    """Return the name that MLflow shows of a trial: what it tries, by names as short as they stay unique.

    >>> trial_title("t03", {"optim.lr": 4.31e-5, "detector.queries": 300})
    't03 lr=4.3e-05 q=300'
    """
    parts = (f"{short_path(path, settings)}={show_value(value, 2)}" for path, value in settings.items())
    shown = " ".join((label, *parts))
    return shown if len(shown) <= TITLE else f"{shown[: TITLE - 1].rstrip()}…"


def short_path(path: str, paths: Iterable[str]) -> str:
    """Return as much of the end of a path as tells it from the others; `q` for queries."""
    parts = path.split(".")
    for start in reversed(range(len(parts))):
        end = "." + ".".join(parts[start:])
        if sum(f".{other}".endswith(end) for other in paths) == 1:
            return SHORT.get(end[1:], end[1:])
    return path
