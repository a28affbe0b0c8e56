"""How far scores are from the share of detections that are right.

Guo et al., "On Calibration of Modern Neural Networks", ICML 2017: the expected calibration error, over bins
of the score. hotcoco computes the same from a matching of its own; the tests compare.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64

from qdet.evaluation.matching.columns import Found, Truth
from qdet.evaluation.matching.greedy import Matches

BINS = 10


@dataclass(frozen=True)
class Calibration:
    """Reliability at IoU 0.5 of all detections that count."""

    ece: float
    """Mean distance of score and precision over all detections, by bin; NaN without detections."""
    mce: float
    """The largest distance of a bin."""
    edges: Float64[np.ndarray, " 11"]
    """Bin i holds the scores in [edges[i], edges[i + 1]), the last one also 1."""
    counts: Int64[np.ndarray, " 10"]
    scores: Float64[np.ndarray, " 10"]
    """Mean score of every bin; NaN for an empty one."""
    precisions: Float64[np.ndarray, " 10"]
    """Share of every bin that is right."""
    per_class: Mapping[str, float]
    """`ece` of every class."""


def calibrate(truth: Truth, found: Found, matches: Matches) -> Calibration:
    """Sort the detections that count into bins."""
    counts = ~matches.ignored[0]
    scores, labels, correct = found.scores[counts], found.labels[counts], matches.correct[0][counts]
    sizes, mean_scores, precisions = _bins(scores, correct)
    gaps = np.abs(mean_scores - precisions)
    return Calibration(
        ece=_expected(sizes, gaps),
        mce=float(np.nanmax(gaps)) if len(scores) else np.nan,
        edges=np.linspace(0, 1, BINS + 1),
        counts=sizes,
        scores=mean_scores,
        precisions=precisions,
        per_class={name: _error(scores, correct, labels == k) for k, name in enumerate(truth.names)},
    )


def _error(
    scores: Float64[np.ndarray, " n"], correct: Bool[np.ndarray, " n"], own: Bool[np.ndarray, " n"]
) -> float:
    sizes, mean_scores, precisions = _bins(scores[own], correct[own])
    return _expected(sizes, np.abs(mean_scores - precisions))


def _expected(sizes: Int64[np.ndarray, " 10"], gaps: Float64[np.ndarray, " 10"]) -> float:
    return float(np.nansum(gaps * sizes) / sizes.sum()) if sizes.any() else np.nan


def _bins(
    scores: Float64[np.ndarray, " n"], correct: Bool[np.ndarray, " n"]
) -> tuple[Int64[np.ndarray, " 10"], Float64[np.ndarray, " 10"], Float64[np.ndarray, " 10"]]:
    """Return size, mean score and precision of every bin."""
    place = np.clip((scores * BINS).astype(np.int64), 0, BINS - 1)
    sizes = np.bincount(place, minlength=BINS).astype(np.int64)
    sums = [np.bincount(place, weights=values, minlength=BINS) for values in (scores, correct)]
    means = [np.divide(s, sizes, out=np.full(BINS, np.nan), where=sizes > 0) for s in sums]
    return sizes, means[0], means[1]
