"""What the trials of a sweep have reported over their epochs, of the metric that is compared."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qdet.job import Sweep
from qdet.launching.runs.sweeps.record import Trial
from qdet.launching.runs.sweeps.settings import decode


@dataclass(frozen=True, kw_only=True)
class Curve:
    """The metric of one trial by epoch."""

    trial: str
    settings: Mapping[str, Any]
    state: str
    values: Mapping[int, float]
    """By epochs behind it, in their order; at least one, all finite."""

    @property
    def last(self) -> float:
        """Value of the last evaluation."""
        return self.values[max(self.values)]


def read_curves(trials: Mapping[int, Trial], *, sweep: Sweep) -> list[Curve]:
    """Return the curves of the trials that were evaluated and have not failed, by number.

    Raises:
        ConfigError: The settings of a trial do not fit the sweep's space.
    """
    curves = []
    for _, trial in sorted(trials.items()):
        ordered = sorted(trial.reports, key=lambda entry: entry.epoch)
        values = {
            entry.epoch: entry.metrics[sweep.metric] for entry in ordered if sweep.metric in entry.metrics
        }
        if values and trial.state != "failed":
            settings = decode(sweep.space, trial.settings)
            curves.append(Curve(trial=trial.label, settings=settings, state=trial.state, values=values))
    return curves


def compared_epoch(curves: Sequence[Curve]) -> int:
    """Return the last epoch that all trials have reached; 0 where they have none in common."""
    common = set.intersection(*(set(one.values) for one in curves)) if curves else set()
    return max(common, default=0)
