"""RoIAlign over a feature pyramid: every box is sampled to a small map from the level that fits its size.

He et al.: Mask R-CNN, ICCV 2017, https://arxiv.org/abs/1703.06870, in the aligned version of detectron2;
levels as in Feature Pyramid Networks (Lin et al., CVPR 2017, https://arxiv.org/abs/1612.03144, section 4.2).

    B images   N boxes   C channels   L levels   P cells of a region, size x size
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from qdet.boxes import area
from qdet.layers.bilinear import interpolate_at
from qdet.layers.precision import fp32_island, widen

CANONICAL_SIZE = 224
"""Size in pixels of the ImageNet crops used in pre-training (FPN, section 4.2)."""
CANONICAL_STRIDE = 16
"""Stride of the map that a box of that size is read from."""


@dataclass(frozen=True)
class Pyramid:
    """Feature maps stacked on one canvas, so that boxes of all levels are sampled at once.

    Built once per batch and read by every stage, which then saves no copy of the maps for backward.
    """

    canvas: Float[Tensor, "B C _ _"]
    """The maps, finest first, each padded at the right to the width of the widest."""
    sizes_hw: tuple[tuple[int, int], ...]
    """Height and width of every map."""
    strides: tuple[int, ...]
    """Pixels per cell of every map."""
    canonical_size: int = CANONICAL_SIZE
    """Width and height in pixels of a box that is read from the map of `CANONICAL_STRIDE`."""

    @classmethod
    def of(
        cls,
        maps: Sequence[Float[Tensor, "B C _ _"]],
        strides: Sequence[int],
        *,
        canonical_size: int = CANONICAL_SIZE,
    ) -> "Pyramid":
        """Lay out the maps of a batch, finest and hence widest first, in float32 or wider for all stages."""
        widest = maps[0].shape[-1]
        canvas = torch.cat([F.pad(widen(x), (0, widest - x.shape[-1])) for x in maps], dim=2)
        sizes = tuple((x.shape[-2], x.shape[-1]) for x in maps)
        return cls(canvas, sizes, tuple(strides), canonical_size)


@fp32_island("sampling")
def roi_align(
    pyramid: Pyramid,
    boxes_xyxy: Float[Tensor, "B N 4"],
    *,
    size: int = 7,
    samples: int = 2,
    outside: Literal["zero", "border"] = "zero",
    box_gradient: bool = False,
) -> Float[Tensor, "B N P C"]:
    """Average samples x samples interpolated values in each of a box's size x size cells, row by row.

    Boxes are in pixels. The defaults are those of the compiled kernels that all published weights were
    trained with: boxes get no gradient; samples more than a cell outside a map are zero, nearer ones read its
    border. torchvision's Python version always reads the border and gives boxes a gradient.
    """
    boxes_xyxy = boxes_xyxy if box_gradient else boxes_xyxy.detach()
    grid, inside = _sample_grid(pyramid, boxes_xyxy, size * samples)
    sampled = interpolate_at(pyramid.canvas, grid, outside="border")
    if outside == "zero":
        sampled = sampled * inside.unsqueeze(1)
    regions = F.avg_pool2d(sampled, samples)  # [B, C, N size, size]
    return regions.unflatten(2, (-1, size)).permute(0, 2, 3, 4, 1).flatten(2, 3)


@fp32_island("geometry")
def region_levels(
    boxes_xyxy: Float[Tensor, "B N 4"], strides: Sequence[int], canonical_size: int = CANONICAL_SIZE
) -> Int[Tensor, "B N"]:
    """Index of the map that a box is read from: one coarser whenever its width and height double."""
    size = area(boxes_xyxy).sqrt() / canonical_size
    level = (torch.log2(size + 1e-8) + math.log2(CANONICAL_STRIDE / strides[0])).floor()
    # A NaN must not become an index; the loss reports it.
    return level.nan_to_num(0.0).clamp(0, len(strides) - 1).long()


def _sample_grid(
    pyramid: Pyramid, boxes_xyxy: Float[Tensor, "B N 4"], count: int
) -> tuple[Float[Tensor, "B rows count 2"], Bool[Tensor, "B rows count"]]:
    """Place count x count samples evenly in each box, row by row.

    Returns their positions on the canvas in `grid_sample` coordinates, and which of them are valid.
    """
    like = {"device": boxes_xyxy.device, "dtype": boxes_xyxy.dtype}
    levels = region_levels(boxes_xyxy.detach(), pyramid.strides, pyramid.canonical_size)
    heights, widths = zip(*pyramid.sizes_hw, strict=True)
    first_rows = list(accumulate(heights[:-1], initial=0))
    facts = torch.tensor((pyramid.strides, widths, heights, first_rows), **like)
    stride, width, height, first_row = facts[:, levels].unsqueeze(-1)  # each [B, N, 1]
    left, top, right, bottom = (boxes_xyxy / stride).unsqueeze(-1).unbind(2)
    x, inside_x = _sample_axis(left, right, width, count)
    y, inside_y = _sample_axis(top, bottom, height, count)
    canvas_height, canvas_width = pyramid.canvas.shape[-2:]
    x, y = (2 * x + 1) / canvas_width - 1, (2 * (y + first_row) + 1) / canvas_height - 1
    grid = torch.stack(torch.broadcast_tensors(x.unsqueeze(2), y.unsqueeze(3)), dim=-1)
    return grid.flatten(1, 2), (inside_x.unsqueeze(2) & inside_y.unsqueeze(3)).flatten(1, 2)


def _sample_axis(
    low: Float[Tensor, "B N 1"], high: Float[Tensor, "B N 1"], cells: Float[Tensor, "B N 1"], count: int
) -> tuple[Float[Tensor, "B N count"], Bool[Tensor, "B N count"]]:
    """Place samples along one side of each box, at most at the map's first and last cell.

    Cell 0 has its centre at 0. Also returns which samples lie less than a cell outside the map.
    """
    shares = (torch.arange(count, device=low.device, dtype=low.dtype) + 0.5) / count
    at = low - 0.5 + (high - low) * shares
    return at.clamp(min=0).minimum(cells - 1), (at >= -1) & (at <= cells)
