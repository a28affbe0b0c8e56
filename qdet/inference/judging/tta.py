"""Test-time augmentation: the same image mirrored and in several sizes, and one result of all views.

The last rows of table 3 of Deformable DETR (Zhu et al., ICLR 2021) are with test-time augmentation, which the
caption says is a horizontal flip and several sizes; the authors published neither the sizes nor how the views
are merged. Here they are fused as in Solovyev et al., "Weighted boxes fusion", Image and Vision Computing,
2021, with one change: a view adds at most one box to a fused one, as query-based detectors need no NMS and
close boxes of one view are different objects.

B images   n detections per image
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Float64, Int, Int64, UInt8
from torch import Tensor

from qdet.data.augment import AugmentConfig
from qdet.evaluation import DetectionRows
from qdet.evaluation.matching.overlaps import box_iou
from qdet.inference.runner import Images, Runner, SizesHW
from qdet.types import BatchDetections

SCALES = (0.75, 1.0, 1.25)
"""Short sides of the views, as parts of the job's size for evaluation."""
SAME_OBJECT = 0.55
"""Least IoU with the surest box of a fused one, as in the authors' code of weighted boxes fusion."""


@dataclass(frozen=True)
class MirroredRunner:
    """Runs a model on mirrored images, and mirrors what it finds back."""

    runner: Runner

    @property
    def device(self) -> torch.device:
        """That of the model."""
        return self.runner.device

    def __call__(self, images: Images, sizes_hw: SizesHW, original_hw: SizesHW) -> BatchDetections:
        """Detect in the mirror images; padding stays at the right."""
        found = self.runner(mirror(images, sizes_hw), sizes_hw, original_hw)
        width = original_hw[:, 1].to(found.boxes_xyxy).view(-1, 1)
        x0, y0, x1, y1 = found.boxes_xyxy.unbind(-1)
        return BatchDetections(torch.stack((width - x1, y0, width - x0, y1), -1), found.scores, found.labels)


def mirror(images: UInt8[Tensor, "B 3 H W"], sizes_hw: Int[Tensor, "B 2"]) -> UInt8[Tensor, "B 3 H W"]:
    """Mirror the part of each image that is not padding left to right."""
    mirrored = images.clone()
    for i, width in enumerate(sizes_hw[:, 1].tolist()):
        mirrored[i, :, :, :width] = images[i, :, :, :width].flip(-1)
    return mirrored


def view_sizes(augment: AugmentConfig) -> list[AugmentConfig]:
    """Return the settings of every size of view."""
    size = augment.short_side_of_evaluation
    return [augment if scale == 1 else augment.at_size(max(1, round(scale * size))) for scale in SCALES]


def fuse(views: Sequence[DetectionRows]) -> DetectionRows:
    """Fuse what was found in several views of the same images.

    Detections of an image and class that mean the same object become one, whose box is their mean weighted by
    score and whose score is their sum over the number of views. An image keeps as many as it had in its
    richest view.
    """
    ordered = [view.in_order() for view in views]
    seen = ordered[0].seen
    ends = [
        (np.searchsorted(v.image_ids, seen), np.searchsorted(v.image_ids, seen, side="right"))
        for v in ordered
    ]
    found = []
    for number in range(len(seen)):
        own = [slice(int(start[number]), int(stop[number])) for start, stop in ends]
        found.append(_fuse_image([_take(view, part) for view, part in zip(ordered, own, strict=True)]))
    whole = _concatenate(found)
    return DetectionRows(
        np.repeat(seen, [len(one.scores) for one in found]),
        whole.classes,
        whole.boxes_xywh,
        whole.scores,
        seen,
    )


@dataclass(frozen=True)
class _Boxes:
    """Detections of an image."""

    classes: Int64[np.ndarray, " n"]
    boxes_xywh: Float64[np.ndarray, "n 4"]
    scores: Float64[np.ndarray, " n"]


def _take(rows: DetectionRows, part: slice) -> _Boxes:
    return _Boxes(rows.category_ids[part], rows.boxes_xywh[part], rows.scores[part])


def _concatenate(parts: Sequence[_Boxes]) -> _Boxes:
    none = _Boxes(np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros(0))
    columns = ([getattr(part, f.name) for part in (none, *parts)] for f in fields(_Boxes))
    return _Boxes(*(np.concatenate(column) for column in columns))


def _fuse_image(views: Sequence[_Boxes]) -> _Boxes:
    everything = _concatenate(views)
    view = np.repeat(np.arange(len(views)), [len(one.scores) for one in views])
    order = np.lexsort((view, -everything.scores))
    classes, boxes, scores = (getattr(everything, f.name)[order] for f in fields(_Boxes))
    group = _group(classes, boxes, view[order])
    leaders, group = np.unique(group, return_inverse=True)
    weight = np.maximum(scores, np.finfo(float).tiny)
    weight = weight / np.bincount(group, weight)[group]
    fused, score = np.zeros((len(leaders), 4)), np.zeros(len(leaders))
    np.add.at(fused, group, weight[:, None] * boxes)
    np.add.at(score, group, scores / len(views))
    best = np.argsort(-score, kind="stable")[: max(len(one.scores) for one in views)]
    return _Boxes(classes[leaders][best], fused[best], score[best])


def _group(
    classes: Int64[np.ndarray, " n"], boxes_xywh: Float64[np.ndarray, "n 4"], view: Int64[np.ndarray, " n"]
) -> Int64[np.ndarray, " n"]:
    """Return for each detection the surest one that means the same object, perhaps itself.

    Detections come best first. Each joins the leader of its class with the largest IoU, among those that its
    view has not joined yet, or becomes one.
    """
    iou = box_iou(boxes_xywh, boxes_xywh, np.zeros(len(classes), bool))
    iou[(classes[:, None] != classes[None]) | (iou < SAME_OBJECT)] = 0
    leader = np.arange(len(classes))
    joined: dict[int, set[int]] = {}
    for i, own in enumerate(view.tolist()):
        near = np.flatnonzero(iou[i, :i])
        nearest = near[np.argsort(-iou[i, near], kind="stable")].tolist()
        leader[i] = next((j for j in nearest if j in joined and own not in joined[j]), i)
        joined.setdefault(int(leader[i]), set()).add(own)
    return leader
