"""What a sweep found, as a table with the best trial first and as the flags of a setting."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qdet.job import Sweep


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


def as_flags(settings: Mapping[str, Any]) -> str:
    """Return settings as they are typed on the command line.

    >>> as_flags({"optim.lr": 2e-5, "detector.queries": 100})
    '--optim.lr 2e-05 --detector.queries 100'
    """
    return " ".join(
        f"--{path.replace('_', '-')} {shlex.quote(str(value))}" for path, value in settings.items()
    )


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
            *(_short(row.settings.get(path, "-")) for path in sweep.space),
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


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
