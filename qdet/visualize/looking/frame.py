"""Where an image of a batch lies: padded, resized and in its own pixels."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Frame:
    """One image of a padded batch."""

    row: int
    """Its place in the batch."""
    size_hw: tuple[int, int]
    """Resized, without padding."""
    original_hw: tuple[int, int]
    """Before resizing."""
    padded_hw: tuple[int, int]

    def to_original(self, points_xy: Float[Tensor, "B *n 2"]) -> Float[np.ndarray, "*n 2"]:
        """Convert this image's points from pixels of the resized image to those of the original."""
        return as_array(points_xy[self.row]) * self.scale_wh

    def boxes_to_original(self, boxes_xyxy: Float[Tensor, "B *n 4"]) -> Float[np.ndarray, "*n 4"]:
        """Convert this image's boxes from pixels of the resized image to those of the original."""
        return as_array(boxes_xyxy[self.row]) * np.tile(self.scale_wh, 2)

    @property
    def scale_wh(self) -> Float[np.ndarray, "2"]:
        """Original pixels per resized pixel in x and y; rounding makes the two differ."""
        return np.array(self.original_hw[::-1], np.float64) / np.array(self.size_hw[::-1], np.float64)

    def stride_of(self, shape_hw: tuple[int, int]) -> int:
        """Return the pixels per cell of a map of the padded image: a power of two."""
        stride = 1
        while -(-self.padded_hw[0] // stride) > shape_hw[0] or -(-self.padded_hw[1] // stride) > shape_hw[1]:
            stride *= 2
        return stride


def as_array(x: Tensor) -> Float[np.ndarray, "..."]:
    """Return a tensor's values as float64."""
    return x.detach().double().cpu().numpy()
