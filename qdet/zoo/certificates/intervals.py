"""Intervals of means over a few seeds, by bootstrap, and what they say of an order.

With n seeds a bootstrap interval is too narrow by about sqrt((n - 1) / n), and by normal instead of Student
quantiles. Percentiles are therefore taken further out (Hesterberg, "What Teachers Should Know about the
Bootstrap", The American Statistician 69, 2015, section 3.4.1: the expanded percentile interval).
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

LEVEL = 0.95
ENUMERATED = 6
"""Up to so many values every resample is formed (6 ** 6 of them); beyond, `DRAWS` are drawn."""
DRAWS = 20_000
Verdict = Literal["reproduced", "contradicted", "undecided"]


@dataclass(frozen=True)
class Interval:
    """A mean with the interval that holds it at `LEVEL`."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        """Return it with three decimals, as AP in [0, 1]."""
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def bootstrap(values: Sequence[float]) -> Interval:
    """Return the mean of independent values with its expanded percentile interval.

    Args:
        values: One for each seed; of fewer than two nothing is known: the interval is the whole line.

    >>> str(bootstrap([0.5, 0.5]))
    '0.500 [0.500, 0.500]'
    """
    mean = float(np.mean(values)) if len(values) else math.nan
    if len(values) < 2:
        return Interval(mean, -math.inf, math.inf)
    low, high = np.quantile(_resampled_means(values), _tails(len(values)), method="inverted_cdf")
    return Interval(mean, float(low), float(high))


def compare(lower: Mapping[int, float], higher: Mapping[int, float]) -> Interval:
    """Return how much one row is above another, paired by seed: seeds that both have count."""
    common = sorted(lower.keys() & higher.keys())
    return bootstrap([higher[seed] - lower[seed] for seed in common])


def judge(difference: Interval) -> Verdict:
    """Say whether a difference that a paper has as positive is positive here."""
    if difference.low > 0:
        return "reproduced"
    return "contradicted" if difference.high < 0 else "undecided"


def _tails(count: int) -> tuple[float, float]:
    tail = float(stats.norm.cdf(-math.sqrt(count / (count - 1)) * stats.t.ppf((1 + LEVEL) / 2, count - 1)))
    return tail, 1 - tail


def _resampled_means(values: Sequence[float]) -> np.ndarray:
    count, given = len(values), np.asarray(values, dtype=np.float64)
    if count <= ENUMERATED:
        picks = np.array(list(itertools.product(range(count), repeat=count)))
    else:
        picks = np.random.default_rng(0).integers(count, size=(DRAWS, count))
    return given[picks].mean(1)
