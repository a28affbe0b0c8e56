"""Pipelines: how the training code of a detector's authors prepares images and boxes.

`detr` is that of DETR and of most of its successors: https://github.com/facebookresearch/detr, `datasets/`.
`mmdet` is that of mmdetection 2.12 with mmcv 1.3, which AdaMixer is built on: `datasets/coco.py`,
`datasets/pipelines/transforms.py` and mmcv's `image/geometric.py`.
`detectron2` is that of Sparse R-CNN's authors: `sparsercnn/dataset_mapper.py` on detectron2's transforms.

They agree in what is drawn: sizes, windows, flips. They differ in what is here. All of them ignore crowds.
mmdetection and detectron2 turn images by their EXIF orientation; no pipeline does here, since annotations are
of the pixels as they are stored.
"""

from dataclasses import dataclass
from typing import Literal

from qdet.data.image.resize import Resize
from qdet.data.image.sizes import SizeRule, detectron2_sizes, detr_sizes, mmdet_sizes

Pipeline = Literal["detr", "mmdet", "detectron2"]


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What a pipeline decides for itself."""

    sizes: SizeRule
    """Size of a resized image."""
    filter: Resize
    """Filter that images are resized with."""
    crop_within_longest: bool = False
    """Whether the longest side also limits an image before a window is cut out of it."""
    least_side: int = 0
    """Pixels of the short side of an image; smaller ones are not trained on."""
    without_objects: bool = True
    """Whether images without an annotated box are trained on."""
    least_annotated: float = 0.0
    """Pixels of either side of a box as it is annotated; smaller ones, or those without area, are left out.
    At 0, all are taken that have an area within the image."""
    least_seen: float = 0.0
    """Pixels that either side of a box in the final image must exceed."""


RULES: dict[Pipeline, Rules] = {
    "detr": Rules(sizes=detr_sizes, filter="pillow"),
    "mmdet": Rules(
        sizes=mmdet_sizes,
        filter="opencv",
        crop_within_longest=True,
        least_side=32,
        without_objects=False,
        least_annotated=1.0,
    ),
    "detectron2": Rules(sizes=detectron2_sizes, filter="pillow-exact", least_seen=1e-5),
}
