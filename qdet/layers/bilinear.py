"""Bilinear interpolation of maps at points, in one of two ways that agree up to rounding.

On a GPU PyTorch's `grid_sample` accumulates gradients in arbitrary order, and raises where deterministic
algorithms are required. There the four cells around each point are gathered instead, several times slower.
"""

from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from qdet.layers.eager import computes_on_a_cpu


def interpolate_at(
    maps: Float[Tensor, "B C H W"],
    grid: Float[Tensor, "B h w 2"],
    *,
    outside: Literal["zeros", "border"] = "zeros",
) -> Float[Tensor, "B C h w"]:
    """Read `maps` at (x, y), where -1 and 1 are the outer edges of the first and last cell.

    Outside the map values are zero, or those of the nearest cell with padding `border`.
    """
    if _must_repeat(maps):
        return gather_at(maps, grid, outside=outside)
    read = partial(F.grid_sample, maps, mode="bilinear", padding_mode=outside, align_corners=False)
    if outside == "border" and computes_on_a_cpu(grid):
        # PyTorch's backward pass would take a NaN for an index, which ends the process.
        lost = grid.isnan().any(-1, keepdim=True)
        return read(grid.masked_fill(lost, 0.0)) + torch.where(lost, torch.nan, 0.0).permute(0, 3, 1, 2)
    return read(grid)


def gather_at(
    maps: Float[Tensor, "B C H W"],
    grid: Float[Tensor, "B h w 2"],
    *,
    outside: Literal["zeros", "border"] = "zeros",
) -> Float[Tensor, "B C h w"]:
    """Interpolate with operations whose gradients are deterministic on every device."""
    height, width = maps.shape[-2:]
    size = grid.new_tensor((width, height))
    places = ((grid + 1) * size - 1) / 2  # cell centres at whole numbers
    if outside == "border":
        places = torch.minimum(places.clamp(min=0), size - 1)
    first = places.detach().floor()
    beyond = places - first  # of the second cell's share
    cells = maps.flatten(2)
    total = maps.new_zeros(())
    for right, below in ((0, 0), (1, 0), (0, 1), (1, 1)):
        step = grid.new_tensor((right, below))
        there = first + step
        share = torch.where(step > 0, beyond, 1 - beyond).prod(-1)
        share = share * ((there >= 0) & (there < size)).all(-1)
        # A NaN must not become an index; the interpolation weight still propagates it.
        x, y = torch.minimum(there.nan_to_num(0.0).clamp(min=0), size - 1).long().unbind(-1)
        index = (y * width + x).flatten(1).unsqueeze(1).expand(-1, maps.shape[1], -1)
        total = total + cells.gather(2, index).unflatten(2, grid.shape[1:3]) * share.unsqueeze(1)
    return total


def _must_repeat(maps: Tensor) -> bool:
    return maps.is_cuda and torch.are_deterministic_algorithms_enabled()
