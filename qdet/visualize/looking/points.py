"""Sampling points: where queries read the feature maps, with the weight of each level.

AdaMixer (Gao et al., CVPR 2022) and the detectors with deformable attention (Deformable DETR, ICLR 2021).

    B images   N queries   P points of a query, of all groups or heads   L levels
    G groups   M heads   K points of a head and level
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from qdet.boxes import cxcywh_to_xyxy
from qdet.detectors.adamixer.sampling_3d import AdaptiveSampling, level_weights
from qdet.layers.attention.deformable import DeformableCrossAttention
from qdet.layers.token_levels import TokenLevels
from qdet.visualize.looking.frame import Frame, as_array
from qdet.visualize.looking.recording import Watch


@dataclass(frozen=True)
class SampledPoints:
    """The points that one stage samples in one image."""

    xy: Float[np.ndarray, "N P 2"]
    """In pixels of the original image; what lies outside reads zero."""
    level_weights: Float[np.ndarray, "N P L"]
    """Share of each level in what a point reads; adds up to 1."""
    weights: Float[np.ndarray, "N P"]
    """Share of a point in what its query gathers; adds up to 1. All are equal in AdaMixer, where mixing
    decides how much a point counts."""
    around_xyxy: Float[np.ndarray, "N 4"]
    """The boxes, or points of no size, that points are placed relative to; they are the stage's input."""
    strides: tuple[int, ...]
    """Pixels of the resized image per cell of each level."""

    @property
    def around_points(self) -> bool:
        """Whether points are placed around points, not boxes."""
        return bool((self.around_xyxy[:, :2] == self.around_xyxy[:, 2:]).all())

    @property
    def log2_stride(self) -> Float[np.ndarray, "N P"]:
        """The mean of log2 of the strides by weight: the level that a point mostly reads."""
        return self.level_weights @ np.log2(self.strides)


@dataclass(frozen=True)
class _Captured:
    """Points of a batch."""

    xy: Float[Tensor, "B N P 2"]
    """In pixels of the resized image, or, with `levels`, relative to it."""
    level_weights: Float[Tensor, "B N P L"]
    weights: Float[Tensor, "B N P"]
    around_xyxy: Float[Tensor, "B N 4"]
    strides: tuple[int, ...] = ()
    levels: TokenLevels | None = None


def watch_points(detector: nn.Module) -> list[Watch]:
    """Return what records the points of each stage; nothing where there are none."""
    watches = []
    for module in detector.modules():
        if isinstance(module, AdaptiveSampling):
            watches.append(Watch(module, _capture_adaptive(module)))
        elif isinstance(module, DeformableCrossAttention):
            watches.append(Watch(module.attention, _capture_deformable(module)))
    return watches


def points_of(captured: Sequence[_Captured], frame: Frame) -> tuple[SampledPoints, ...]:
    """Take one image's points out of what was recorded of its batch."""
    return tuple(_points_of(stage, frame) for stage in captured)


def _points_of(stage: _Captured, frame: Frame) -> SampledPoints:
    xy, around, strides = stage.xy, stage.around_xyxy, stage.strides
    if stage.levels is not None:
        size_wh = xy.new_tensor(frame.size_hw[::-1])
        xy, around = xy * size_wh, around * size_wh.repeat(2)
        strides = tuple(frame.stride_of(shape) for shape in stage.levels.shapes_hw)
    return SampledPoints(
        frame.to_original(xy),
        as_array(stage.level_weights[frame.row]),
        as_array(stage.weights[frame.row]),
        frame.boxes_to_original(around),
        strides,
    )


def _capture_adaptive(module: AdaptiveSampling) -> Any:
    def capture(inputs: tuple[Any, ...], _: Any) -> _Captured:
        query, boxes = inputs[:2]
        points = module.choose_points(query, boxes).flatten(2, 3)  # [B, N, G P, 3]
        levels = level_weights(points[..., 2], module.strides).movedim(0, -1)
        equal = torch.full_like(points[..., 2], 1 / points.shape[2])
        return _Captured(points[..., :2], levels, equal, boxes.xyxy, module.strides)

    return capture


def _capture_deformable(module: DeformableCrossAttention) -> Any:
    def capture(inputs: tuple[Any, ...], _: Any) -> _Captured:
        query, reference, _, levels = inputs
        points, weights = module.attention.choose_points(query, reference, levels)
        xy = points / levels.inside_share[:, None, None, :, None]  # of the unpadded image
        one_hot = torch.eye(weights.shape[3], dtype=weights.dtype, device=weights.device)
        of_point = one_hot[:, None].expand(*weights.shape[:3], -1, weights.shape[4], -1)
        around = (
            torch.cat((reference, reference), -1) if reference.shape[-1] == 2 else cxcywh_to_xyxy(reference)
        )
        shares = weights.flatten(2) / weights.shape[2]
        return _Captured(xy.flatten(2, 4), of_point.flatten(2, 4), shares, around, levels=levels)

    return capture
