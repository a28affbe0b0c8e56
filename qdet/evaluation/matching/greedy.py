"""Greedy matching by score, as COCO does: each detection takes the best object that is still free.

T IoU thresholds   n detections   g objects   p overlapping pairs
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64

from qdet.evaluation.matching.columns import MAX_AREA, Found, Truth, rank_in_group
from qdet.evaluation.matching.overlaps import Overlaps

THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""IoU thresholds of COCO AP, spaced as pycocotools has them."""


@dataclass(frozen=True)
class Matches:
    """What became of every detection at every IoU threshold; row 0 is IoU 0.5."""

    objects: Int64[np.ndarray, "T n"]
    """The object that a detection found, also an ignored one; -1 where it found none."""
    ignored: Bool[np.ndarray, "T n"]
    """Counted neither as right nor as wrong: found a crowd, or has a size that is not evaluated."""

    @property
    def correct(self) -> Bool[np.ndarray, "T n"]:
        """True positives."""
        return (self.objects >= 0) & ~self.ignored

    def missed(self, truth: Truth) -> Bool[np.ndarray, " g"]:
        """Objects that count and that no detection found at IoU 0.5."""
        hit = np.zeros(len(truth.images), bool)
        hit[self.objects[0][self.objects[0] >= 0]] = True
        return ~hit & ~truth.ignored


def match(
    truth: Truth, found: Found, overlaps: Overlaps, *, areas: tuple[float, float] = (0, MAX_AREA)
) -> Matches:
    """Match detections with objects of their class, as pycocotools does.

    Detections that find nothing and whose area is outside `areas` are ignored; `truth` ignores such objects.
    """
    same = found.labels[overlaps.detections] == truth.labels[overlaps.objects]
    pairs = overlaps.select(same & (overlaps.iou >= THRESHOLDS[0] - 1e-9))
    groups = found.images * len(truth.names) + found.labels
    objects = take_greedily(truth, pairs, groups, THRESHOLDS)
    area = found.boxes_xywh[:, 2] * found.boxes_xywh[:, 3]
    outside = (area < areas[0]) | (area > areas[1])
    counts_not = np.append(truth.ignored, False)[objects]  # -1, no object, is the last one
    return Matches(objects, counts_not | ((objects < 0) & outside))


def take_greedily(
    truth: Truth,
    pairs: Overlaps,
    groups: Int64[np.ndarray, " n"],
    thresholds: Float64[np.ndarray, " T"],
) -> Int64[np.ndarray, "T n"]:
    """Return the object that each detection takes, or -1.

    Detections of a group come best score first. Among the objects of `pairs` that are free, those that count
    come before ignored ones, then the largest IoU, then the last. A crowd is never used up.

    All groups are matched at once: round r handles the r-th detection of each, which share no object.
    """
    chosen = np.full((len(thresholds), len(groups)), -1, np.int64)
    if not len(pairs.iou):
        return chosen
    taken = np.zeros((len(thresholds), len(truth.images)), bool)
    reach = np.minimum(thresholds, 1 - 1e-10)[:, None]
    for turn in _rounds(truth, pairs, groups):
        free = ~taken[:, turn.objects] & (turn.iou >= reach)
        starts = np.flatnonzero(np.append(True, np.diff(turn.detections) != 0))
        last = len(turn.iou)
        first = np.minimum.reduceat(np.where(free, np.arange(last), last), starts, axis=1)
        row, column = np.nonzero(first < last)
        object_ = turn.objects[first[row, column]]
        chosen[row, turn.detections[starts[column]]] = object_
        taken[row, object_] = ~truth.crowd[object_]
    return chosen


def _rounds(truth: Truth, pairs: Overlaps, groups: Int64[np.ndarray, " n"]) -> Iterator[Overlaps]:
    """Cut `pairs` into rounds, each with its detections in turn and their objects in order of preference."""
    detections, where = np.unique(pairs.detections, return_inverse=True)
    turn = rank_in_group(groups[detections])[where]
    preference = (-pairs.objects, -pairs.iou, truth.ignored[pairs.objects])
    order = np.lexsort((*preference, pairs.detections, turn))
    for part in np.split(order, np.flatnonzero(np.diff(turn[order])) + 1):
        yield pairs.select(part)
