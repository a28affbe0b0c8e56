"""Which classes are taken for which, at the best thresholds.

hotcoco matches without regard to class and counts what finds a crowd as wrong; here a detection takes an
object of its own class first, as COCO has it, so that the diagonal counts COCO's true positives.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from qdet.evaluation.analysis.operating_point import OperatingPoint
from qdet.evaluation.matching.columns import Found, Truth
from qdet.evaluation.matching.greedy import THRESHOLDS, Matches, take_greedily
from qdet.evaluation.matching.overlaps import Overlaps


@dataclass(frozen=True)
class Confusion:
    """Counts at IoU 0.5: a row per class of the ground truth, a column per class that was predicted."""

    names: tuple[str, ...]
    counts: Int64[np.ndarray, "K1 K1"]
    """The last row holds detections of nothing, the last column objects that were missed."""

    def most_common(self, number: int = 20) -> list[tuple[str, str, int]]:
        """Return the confusions of two classes as (ground truth, predicted, how often), most often first."""
        wrong = self.counts[:-1, :-1].copy()
        np.fill_diagonal(wrong, 0)
        order = np.argsort(-wrong, axis=None, kind="stable")[:number]
        pairs = [divmod(int(i), len(self.names)) for i in order if wrong.flat[i]]
        return [(self.names[row], self.names[column], int(wrong[row, column])) for row, column in pairs]


def confuse(
    truth: Truth, found: Found, overlaps: Overlaps, matches: Matches, point: OperatingPoint
) -> Confusion:
    """Match by class, then what is left over without regard to class, best scores first."""
    away = len(truth.names)
    pairs = overlaps.select(
        point.false[overlaps.detections] & point.missed[overlaps.objects] & (overlaps.iou >= THRESHOLDS[0])
    )
    taken = take_greedily(truth, pairs, found.images, THRESHOLDS[:1])[0]
    objects = np.where(point.correct, matches.objects[0], taken)
    predicted, actual = found.labels[point.shown], np.append(truth.labels, away)[objects[point.shown]]
    left = point.missed.copy()
    left[taken[taken >= 0]] = False
    counts = np.zeros((away + 1, away + 1), np.int64)
    np.add.at(counts, (actual, predicted), 1)
    counts[:away, away] = np.bincount(truth.labels[left], minlength=away)
    return Confusion(truth.names, counts)
