"""AP of parts of a dataset: by size of the objects, by how many there are, by how much they overlap."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64

from qdet.evaluation.matching.average_precision import (
    RankedClass,
    average_precision,
    mean_over_classes,
    rank,
)
from qdet.evaluation.matching.columns import MAX_AREA, Found, Truth
from qdet.evaluation.matching.greedy import match
from qdet.evaluation.matching.overlaps import Overlaps, box_iou

SIZES = (0, 16, 32, 64, 96, 192, 1e5)
"""Bounds of the square root of the area; 32 and 96 are COCO's, between small, medium and large."""
NUMBERS = (1, 2, 4, 8, 16, 32)
"""Least number of objects in an image."""
CLOSENESS = (0.0, 0.25, 0.5)
"""Bounds of the largest IoU of two objects of an image."""


@dataclass(frozen=True)
class Slice:
    """A part of the dataset."""

    name: str
    images: int
    objects: int
    AP: float
    """NaN where the part holds no object."""
    AP50: float


@dataclass(frozen=True)
class Slices:
    """The dataset in three divisions; parts without objects are left out."""

    size: tuple[Slice, ...]
    """By side of the square of the object's area, in pixels. Other objects are ignored, as in COCO's APs."""
    number: tuple[Slice, ...]
    """By number of objects in the image."""
    overlap: tuple[Slice, ...]
    """By largest IoU of two objects of the image."""


def slice_dataset(truth: Truth, found: Found, overlaps: Overlaps, ranked: tuple[RankedClass, ...]) -> Slices:
    """Measure AP of every part."""
    counts = ~truth.ignored
    number = np.bincount(truth.images[counts], minlength=len(truth.image_ids))
    closest = largest_overlap(truth)
    by_number = [
        (_number_name(low, high), (number >= low) & (number < high))
        for low, high in zip(NUMBERS, (*NUMBERS[1:], np.inf), strict=True)
    ]
    by_overlap = [("none", closest <= 0)] + [
        (_overlap_name(low, high), (closest > low) & (closest <= high))
        for low, high in zip(CLOSENESS, (*CLOSENESS[1:], 1.0), strict=True)
    ]
    return Slices(
        size=_by_size(truth, found, overlaps),
        number=_by_images(truth, ranked, by_number),
        overlap=_by_images(truth, ranked, by_overlap),
    )


def largest_overlap(truth: Truth) -> Float64[np.ndarray, " m"]:
    """Largest IoU of two objects that count, of any class, in every image; 0 where there are not two."""
    largest = np.zeros(len(truth.image_ids))
    order = np.argsort(truth.images, kind="stable")
    order = order[~truth.ignored[order]]
    ends = np.searchsorted(truth.images[order], np.arange(len(largest) + 1))
    for image in np.flatnonzero(np.diff(ends) > 1).tolist():
        boxes = truth.boxes_xywh[order[ends[image] : ends[image + 1]]]
        iou = box_iou(boxes, boxes, np.zeros(len(boxes), bool))
        np.fill_diagonal(iou, 0)
        largest[image] = iou.max()
    return largest


def _by_size(truth: Truth, found: Found, overlaps: Overlaps) -> tuple[Slice, ...]:
    everything = np.ones((1, len(truth.image_ids)), np.int64)
    slices = []
    for low, high in itertools.pairwise(SIZES):
        areas = (float(low) ** 2, min(float(high) ** 2, MAX_AREA))
        part = truth.within(*areas)
        images = len(np.unique(part.images[~part.ignored]))
        if images:
            precision = average_precision(
                rank(part, found, match(part, found, overlaps, areas=areas)), everything
            )
            name = f"{low} to {high}" if high < SIZES[-1] else f"over {low}"
            slices.append(_measured(name, images, int(part.objects().sum()), precision))
    return tuple(slices)


def _by_images(
    truth: Truth, ranked: tuple[RankedClass, ...], parts: Sequence[tuple[str, Bool[np.ndarray, " m"]]]
) -> tuple[Slice, ...]:
    number: Int64[np.ndarray, " m"] = np.bincount(
        truth.images[~truth.ignored], minlength=len(truth.image_ids)
    )
    parts = [(name, chosen & (number > 0)) for name, chosen in parts]
    parts = [(name, chosen) for name, chosen in parts if chosen.any()]
    if not parts:
        return ()
    precision = average_precision(ranked, np.stack([chosen for _, chosen in parts]).astype(np.int64))
    return tuple(
        _measured(name, int(chosen.sum()), int(number[chosen].sum()), precision[i : i + 1])
        for i, (name, chosen) in enumerate(parts)
    )


def _measured(name: str, images: int, objects: int, precision: Float64[np.ndarray, "1 T K"]) -> Slice:
    by_threshold = mean_over_classes(precision)[0]
    return Slice(name, images, objects, float(by_threshold.mean()), float(by_threshold[0]))


def _number_name(low: int, high: float | int) -> str:
    if high == np.inf:
        return f"{low} or more"
    return str(low) if high == low + 1 else f"{low} to {int(high) - 1}"


def _overlap_name(low: float, high: float | int) -> str:
    return f"up to {high:g}" if low == 0 else f"{low:g} to {high:g}"
