"""Two models on the same images: what differs, and whether by more than chance."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from qdet.evaluation.analysis.bootstrap import NAMES, Resampled, bounds, reflect
from qdet.evaluation.coco import METRICS, CocoMetrics


@dataclass(frozen=True)
class Change:
    """A metric of both models; `low` and `high` bound 95% of the paired bootstrap's differences."""

    first: float
    second: float
    difference: float
    """Second minus first."""
    low: float
    high: float
    better: float
    """How likely the second is better by the bootstrap, ties counted half; NaN without draws."""

    @property
    def certain(self) -> bool:
        """Whether zero is outside the interval."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Comparison:
    """A second model beside the first."""

    first: str
    second: str
    draws: int
    metrics: Mapping[str, Change]
    """COCO's twelve numbers; only AP, AP50 and AP75 have intervals."""
    per_class: Mapping[str, Change]
    """AP by class."""


def compare(
    names: tuple[str, str],
    metrics: tuple[CocoMetrics, CocoMetrics],
    resampled: tuple[Resampled, Resampled],
    classes: tuple[str, ...],
) -> Comparison:
    """Pair the draws of both models, which are of the same images."""
    (first, first_drawn), (second, second_drawn) = (one.overall() for one in resampled)
    changes = {
        name: _change(getattr(metrics[0], name), getattr(metrics[1], name), np.zeros(0)) for name in METRICS
    }
    differences = second_drawn - first_drawn
    changes |= {name: _change(first[i], second[i], differences[:, i]) for i, name in enumerate(NAMES)}
    per_class = [(one.precision.mean(1)[0], one.draws.mean(1)) for one in resampled]
    return Comparison(
        *names,
        draws=len(first_drawn),
        metrics=changes,
        per_class={
            name: _change(per_class[0][0][k], per_class[1][0][k], (per_class[1][1] - per_class[0][1])[:, k])
            for k, name in enumerate(classes)
        },
    )


def _change(first: float, second: float, differences: Float64[np.ndarray, " B"]) -> Change:
    difference = float(second - first)
    likely = reflect(difference, differences)
    better = float(((likely > 0) + 0.5 * (likely == 0)).mean()) if len(likely) else np.nan
    return Change(float(first), float(second), difference, *bounds(likely), better)
