"""Every overlap of a detection with an object of its image, of any class, as a sparse table.

n detections   g objects   p overlapping pairs
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64

from qdet.evaluation.matching.columns import Found, Truth

LEAST = 0.1
"""Smaller overlaps are not kept: TIDE counts what overlaps less as background."""


@dataclass(frozen=True)
class Overlaps:
    """Pairs of a detection and an object by position, detections ascending."""

    detections: Int64[np.ndarray, " p"]
    objects: Int64[np.ndarray, " p"]
    iou: Float64[np.ndarray, " p"]
    """With a crowd: the part of the detection that lies in it, as COCO has it."""

    def select(self, keep: Bool[np.ndarray, " p"] | Int64[np.ndarray, " k"]) -> "Overlaps":
        """Keep the pairs of a mask or at some positions."""
        return Overlaps(self.detections[keep], self.objects[keep], self.iou[keep])


def find_overlaps(truth: Truth, found: Found, least: float = LEAST) -> Overlaps:
    """Return all pairs in the same image with an IoU of at least `least`."""
    by_image = np.argsort(truth.images, kind="stable")
    everywhere = np.arange(len(truth.image_ids) + 1)
    first_object = np.searchsorted(truth.images[by_image], everywhere)
    first_found = np.searchsorted(found.images, everywhere)
    empty = np.zeros(0, np.int64)
    parts = [(empty, empty, np.zeros(0))]
    both = np.flatnonzero((np.diff(first_object) > 0) & (np.diff(first_found) > 0))
    for image in both.tolist():
        objects = by_image[first_object[image] : first_object[image + 1]]
        start, stop = first_found[image], first_found[image + 1]
        iou = box_iou(found.boxes_xywh[start:stop], truth.boxes_xywh[objects], truth.crowd[objects])
        d, o = np.nonzero(iou >= least)
        parts.append((d + start, objects[o], iou[d, o]))
    detections, objects, overlap = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Overlaps(detections, objects, overlap)


def box_iou(
    found_xywh: Float64[np.ndarray, "n 4"],
    objects_xywh: Float64[np.ndarray, "g 4"],
    crowd: Bool[np.ndarray, " g"],
) -> Float64[np.ndarray, "n g"]:
    """Intersection over union, in the order of operations of pycocotools, so that ties stay ties.

    Where `crowd`, intersection over the detection's own area.
    """
    a, b = found_xywh[:, None], objects_xywh[None]
    upper = np.minimum(a[..., :2] + a[..., 2:], b[..., :2] + b[..., 2:])
    sides = np.maximum(upper - np.maximum(a[..., :2], b[..., :2]), 0)
    shared = sides[..., 0] * sides[..., 1]
    own = a[..., 2] * a[..., 3]
    union = np.where(crowd[None], own, own + b[..., 2] * b[..., 3] - shared)
    return np.divide(shared, union, out=np.zeros_like(shared), where=(shared > 0) & (union > 0))
