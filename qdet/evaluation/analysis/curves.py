"""Precision, recall and F1 at IoU 0.5 over the score threshold, and the threshold with the best F1.

n detections of a class, best score first
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64

from qdet.evaluation.matching.average_precision import interpolated_precision
from qdet.evaluation.matching.columns import Found, Truth
from qdet.evaluation.matching.greedy import Matches

GRID = np.linspace(0.0, 1.0, 101)
"""The recalls, and the score thresholds, that curves are given at."""


@dataclass(frozen=True)
class Curve:
    """One class, or all classes as one list; what cannot be measured is NaN."""

    objects: int
    threshold: float
    """Score with the best F1, the highest of several; NaN where no detection is right."""
    precision: float
    """At the threshold; so are `recall` and `f1`."""
    recall: float
    f1: float
    precision_by_recall: Float64[np.ndarray, " 101"]
    """COCO's interpolated precision at recalls 0, 0.01, ..., 1; its mean is AP50."""
    precision_by_score: Float64[np.ndarray, " 101"]
    """Of the detections of at least the score 0, 0.01, ..., 1."""
    recall_by_score: Float64[np.ndarray, " 101"]
    f1_by_score: Float64[np.ndarray, " 101"]


@dataclass(frozen=True)
class Curves:
    """The curves of a dataset."""

    overall: Curve
    """All classes as one list: the threshold for those who want a single one."""
    per_class: Mapping[str, Curve]

    def thresholds(self) -> Float64[np.ndarray, " K"]:
        """The best threshold per class; for a class without one the overall one; 0 without either."""
        own = np.array([curve.threshold for curve in self.per_class.values()])
        return np.nan_to_num(np.where(np.isnan(own), self.overall.threshold, own), nan=0.0)


def draw_curves(truth: Truth, found: Found, matches: Matches) -> Curves:
    """Measure all curves."""
    order = np.argsort(-found.scores, kind="stable")
    order = order[~matches.ignored[0][order]]
    scores, labels, correct = found.scores[order], found.labels[order], matches.correct[0][order]
    objects = truth.objects()
    return Curves(
        overall=_curve(scores, correct, int(objects.sum())),
        per_class={
            name: _curve(scores[labels == k], correct[labels == k], int(objects[k]))
            for k, name in enumerate(truth.names)
        },
    )


def _curve(scores: Float64[np.ndarray, " n"], correct: Bool[np.ndarray, " n"], objects: int) -> Curve:
    hits = np.append(0, correct.cumsum())
    at = np.searchsorted(-scores, -GRID, side="right")
    return Curve(
        objects,
        *_best(scores, hits, objects),
        precision_by_recall=_by_recall(correct, objects),
        precision_by_score=_ratio(hits[at], at),
        recall_by_score=_ratio(hits[at], np.full(len(GRID), objects)),
        f1_by_score=_ratio(2 * hits[at], at + objects) if objects else np.full(len(GRID), np.nan),
    )


def _best(
    scores: Float64[np.ndarray, " n"], hits: Int64[np.ndarray, " n1"], objects: int
) -> tuple[float, float, float, float]:
    """Return threshold, precision, recall and F1; detections of one score are in or out together."""
    if not objects or not hits[-1]:
        return np.nan, np.nan, np.nan, np.nan
    count = np.flatnonzero(np.append(scores[1:] != scores[:-1], True)) + 1
    f1 = 2 * hits[count] / (count + objects)
    best = int(f1.argmax())
    hit, shown = int(hits[count[best]]), int(count[best])
    return float(scores[shown - 1]), hit / shown, hit / objects, float(f1[best])


def _by_recall(correct: Bool[np.ndarray, " n"], objects: int) -> Float64[np.ndarray, " 101"]:
    if not objects:
        return np.full(len(GRID), np.nan)
    hit = np.flatnonzero(correct)
    running = np.arange(1, len(hit) + 1)[None]
    return interpolated_precision(running, hit[None] + 1, np.array([objects]))[0]


def _ratio(part: Int64[np.ndarray, " n"], whole: Int64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)
