"""Ground truth and detections as columns, with images and classes counted from zero.

m images   K classes   g objects   n detections
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64

from qdet.evaluation.coco import class_names
from qdet.evaluation.rows import DetectionRows

MAX_DETECTIONS = 100
"""COCO counts this many per image and class."""
MAX_AREA = 1e5**2
"""Square pixels; COCO's area range `all` ends here, and larger objects count neither way."""


@dataclass(frozen=True)
class Truth:
    """The objects of a dataset, in the order of its annotations."""

    image_ids: Int64[np.ndarray, " m"]
    """The dataset's own ids, ascending; `images` points into them."""
    class_ids: Int64[np.ndarray, " K"]
    names: tuple[str, ...]
    """Unique name of every class."""
    images: Int64[np.ndarray, " g"]
    labels: Int64[np.ndarray, " g"]
    boxes_xywh: Float64[np.ndarray, "g 4"]
    """In pixels of the image file."""
    areas: Float64[np.ndarray, " g"]
    """As annotated, in square pixels: of the mask, where there is one."""
    crowd: Bool[np.ndarray, " g"]
    ignored: Bool[np.ndarray, " g"]
    """Crowds and objects outside COCO's area range: they need not be found, and finding them is no error."""
    annotation_ids: tuple[Any, ...]
    """As in the annotation file."""

    @classmethod
    def from_coco(cls, coco: Mapping[str, Any]) -> "Truth":
        """Read a COCO dict."""
        categories = sorted(coco["categories"], key=lambda c: c["id"])
        class_ids = np.array([c["id"] for c in categories], np.int64)
        image_ids = np.sort(np.array([image["id"] for image in coco["images"]], np.int64))
        given = coco["annotations"]
        boxes = np.array([a["bbox"] for a in given], np.float64).reshape(-1, 4)
        area = np.array([a.get("area", a["bbox"][2] * a["bbox"][3]) for a in given], np.float64)
        crowd = np.array([bool(a.get("iscrowd", 0)) for a in given], bool)
        names = class_names(categories)
        return cls(
            image_ids=image_ids,
            class_ids=class_ids,
            names=tuple(names[c["id"]] for c in categories),
            images=_positions(image_ids, [a["image_id"] for a in given]),
            labels=_positions(class_ids, [a["category_id"] for a in given]),
            boxes_xywh=boxes,
            areas=area,
            crowd=crowd,
            ignored=crowd | (area < 0) | (area > MAX_AREA),
            annotation_ids=tuple(a.get("id") for a in given),
        )

    def within(self, least: float, most: float) -> "Truth":
        """Ignore the objects whose area is not in [least, most], as COCO's AP by size does."""
        outside = (self.areas < least) | (self.areas > most)
        return replace(self, ignored=self.crowd | outside)

    def objects(self) -> Int64[np.ndarray, " K"]:
        """Count the objects of every class that count."""
        return np.bincount(self.labels[~self.ignored], minlength=len(self.names)).astype(np.int64)


@dataclass(frozen=True)
class Found:
    """Detections by image, best score first; at most COCO's 100 per image and class."""

    images: Int64[np.ndarray, " n"]
    labels: Int64[np.ndarray, " n"]
    boxes_xywh: Float64[np.ndarray, "n 4"]
    scores: Float64[np.ndarray, " n"]

    @classmethod
    def from_rows(cls, rows: DetectionRows, truth: Truth) -> "Found":
        """Sort `rows`, and leave out classes that the dataset does not have."""
        rows = rows.in_order()
        known = np.isin(rows.category_ids, truth.class_ids)
        images = np.searchsorted(truth.image_ids, rows.image_ids[known])
        labels = np.searchsorted(truth.class_ids, rows.category_ids[known])
        keep = rank_in_group(images * len(truth.names) + labels) < MAX_DETECTIONS
        return cls(
            images=images[keep].astype(np.int64),
            labels=labels[keep].astype(np.int64),
            boxes_xywh=rows.boxes_xywh[known][keep],
            scores=rows.scores[known][keep],
        )

    def __len__(self) -> int:
        return len(self.scores)


def rank_in_group(groups: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """Count, for every element, the earlier ones of the same group."""
    order = np.argsort(groups, kind="stable")
    ordered = groups[order]
    first = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])) if len(groups) else order
    sizes = np.diff(np.append(first, len(groups)))
    rank = np.empty(len(groups), np.int64)
    rank[order] = np.arange(len(groups)) - np.repeat(first, sizes)
    return rank


def _positions(ids: Int64[np.ndarray, " m"], wanted: list[int]) -> Int64[np.ndarray, " n"]:
    return np.searchsorted(ids, np.array(wanted, np.int64)).astype(np.int64)
