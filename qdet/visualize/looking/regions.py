"""Regions: the box that each query reads with RoIAlign, and from which level.

Sparse R-CNN (Sun et al., CVPR 2021), Dynamic DETR, and AdaMixer's ablation with RoIAlign.

    B images   N queries
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor, nn

from qdet.detectors.adamixer.sampling import SIDE, RegionSampling
from qdet.layers.regions.decoder import RegionStage
from qdet.layers.regions.roi_align import Pyramid, region_levels
from qdet.visualize.looking.frame import Frame
from qdet.visualize.looking.recording import Watch


@dataclass(frozen=True)
class Regions:
    """The regions that one stage reads in one image."""

    boxes_xyxy: Float[np.ndarray, "N 4"]
    """In pixels of the original image; what lies outside reads zero."""
    levels: Int[np.ndarray, " N"]
    """Index of the level that each is read from."""
    strides: tuple[int, ...]
    """Pixels of the resized image per cell of each level."""
    side: int
    """Cells along each side of a region."""


@dataclass(frozen=True)
class _Captured:
    """Regions of a batch, in pixels of the resized image."""

    boxes_xyxy: Float[Tensor, "B N 4"]
    pyramid: Pyramid
    side: int


def watch_regions(detector: nn.Module) -> list[Watch]:
    """Return what records the regions of each stage; nothing where there are none."""
    watches = []
    for module in detector.modules():
        if isinstance(module, RegionStage):
            watches.append(Watch(module, _capture_stage(module)))
        elif isinstance(module, RegionSampling):
            watches.append(Watch(module, _capture_sampling))
    return watches


def regions_of(captured: Sequence[_Captured], frame: Frame) -> tuple[Regions, ...]:
    """Take one image's regions out of what was recorded of its batch."""
    return tuple(_regions_of(stage, frame) for stage in captured)


def _regions_of(stage: _Captured, frame: Frame) -> Regions:
    pyramid = stage.pyramid
    levels = region_levels(
        stage.boxes_xyxy[frame.row : frame.row + 1], pyramid.strides, pyramid.canonical_size
    )
    return Regions(
        frame.boxes_to_original(stage.boxes_xyxy), levels[0].cpu().numpy(), pyramid.strides, stage.side
    )


def _capture_stage(stage: RegionStage) -> Any:
    def capture(inputs: tuple[Any, ...], _: Any) -> _Captured:
        _, boxes, pyramid, *_ = inputs
        return _Captured(boxes.detach(), pyramid, stage.roi_size)

    return capture


def _capture_sampling(inputs: tuple[Any, ...], _: Any) -> _Captured:
    _, boxes, pyramid = inputs
    return _Captured(boxes.xyxy.detach(), pyramid, SIDE)
