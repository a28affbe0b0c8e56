"""The images with the most errors at the best thresholds, and the boxes that show them."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float64, Int64

from qdet.evaluation.analysis.operating_point import OperatingPoint
from qdet.evaluation.matching.columns import Found, Truth

MOST = 24
"""Images of each kind."""
Kind = Literal["correct", "false", "found", "missed"]


@dataclass(frozen=True)
class ShownBox:
    """A detection that is `correct` or `false`, or an object that was `found` or `missed`."""

    kind: Kind
    name: str
    score: float
    """NaN for an object."""
    box_xywh: tuple[float, ...]
    """In pixels of the image file."""


@dataclass(frozen=True)
class WorstImage:
    """One image with its errors counted."""

    image_id: int
    correct: int
    false: int
    missed: int
    boxes: tuple[ShownBox, ...]


@dataclass(frozen=True)
class WorstImages:
    """The worst first."""

    false: tuple[WorstImage, ...]
    """By sum of the scores of wrong detections: many, or very sure ones."""
    missed: tuple[WorstImage, ...]
    """By number of missed objects, then by their share."""


def find_worst(truth: Truth, found: Found, point: OperatingPoint) -> WorstImages:
    """Rank the images."""
    images = len(truth.image_ids)
    certainty = np.zeros(images)
    np.add.at(certainty, found.images[point.false], found.scores[point.false])
    missed = np.bincount(truth.images[point.missed], minlength=images)
    objects = np.bincount(truth.images[~truth.ignored], minlength=images)
    share = missed / np.maximum(objects, 1)
    return WorstImages(
        false=tuple(_show(truth, found, point, i) for i in _top(certainty, certainty)),
        missed=tuple(_show(truth, found, point, i) for i in _top(missed.astype(float), share)),
    )


def _top(first: Float64[np.ndarray, " m"], second: Float64[np.ndarray, " m"]) -> list[int]:
    order: Int64[np.ndarray, " m"] = np.lexsort((-second, -first))[:MOST]
    return [i for i in order.tolist() if first[i] > 0]


def _show(truth: Truth, found: Found, point: OperatingPoint, image: int) -> WorstImage:
    own = np.flatnonzero(point.shown & (found.images == image))
    objects = np.flatnonzero((truth.images == image) & ~truth.ignored)
    boxes = [
        ShownBox(
            kind="missed" if point.missed[o] else "found",
            name=truth.names[truth.labels[o]],
            score=np.nan,
            box_xywh=tuple(truth.boxes_xywh[o].tolist()),
        )
        for o in objects.tolist()
    ] + [
        ShownBox(
            kind="correct" if point.correct[d] else "false",
            name=truth.names[found.labels[d]],
            score=float(found.scores[d]),
            box_xywh=tuple(found.boxes_xywh[d].tolist()),
        )
        for d in own.tolist()
    ]
    correct = int(point.correct[own].sum())
    missed = int(point.missed[objects].sum())
    return WorstImage(int(truth.image_ids[image]), correct, len(own) - correct, missed, tuple(boxes))
