"""Where the levels of a table of cells begin, on the device.

L levels
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

MOST_CELLS = 2**24
"""Cells of an image that float32 still numbers."""


@dataclass(frozen=True)
class LevelTable:
    """Feature maps of an image, one after the other, the finest first."""

    sizes_hw: tuple[tuple[int, int], ...]
    """Height and width of every map."""
    strides: tuple[int, ...]
    """Pixels per cell of every map."""

    def on_device(self, like: Tensor) -> Float[Tensor, "L 5"]:
        """Return height, width, first cell, stride and its log2 of every level, in the dtype of `like`."""
        return _table(self, like.dtype, like.device)

    @property
    def cells(self) -> int:
        """Cells of all maps."""
        return sum(height * width for height, width in self.sizes_hw)


@functools.lru_cache(maxsize=1024)
def _table(levels: LevelTable, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Copy a table to the device, which waits for nothing, once for every set of sizes."""
    rows = torch.tensor(_rows(levels.sizes_hw, levels.strides), dtype=dtype)
    return rows.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else rows.to(device)


def _rows(sizes_hw: Sequence[tuple[int, int]], strides: Sequence[int]) -> list[list[float]]:
    rows, first = [], 0
    for (height, width), stride in zip(sizes_hw, strides, strict=True):
        rows.append([*map(float, (height, width, first, stride)), math.log2(stride)])
        first += height * width
    return rows
