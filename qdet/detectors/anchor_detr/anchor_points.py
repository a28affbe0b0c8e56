"""Anchor points: image locations that queries start from, in normalized coordinates.

Anchor DETR (Wang et al., AAAI 2022, https://arxiv.org/abs/2109.07107), section 3.2.

    P points
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from qdet.layers.queries import LearnedQueries


class LearnedPoints(LearnedQueries):
    """Learned points; not constrained to the image, as in the authors' code."""

    def __init__(self, points: int, extra: int = 0) -> None:
        super().__init__(points, 2, normalize=False, extra=extra)

    def reset_parameters(self) -> None:
        """Spread them evenly over the image."""
        for points in self.parameters():
            nn.init.uniform_(points)


class GridPoints(nn.Module):
    """Fixed points: the cell centres of a square grid, column by column."""

    def __init__(self, points: int) -> None:
        super().__init__()
        side = math.isqrt(points)
        if side**2 != points:
            raise ValueError(f"points must be a square number, got {points}")
        places = (torch.arange(side) + 0.5) / side
        self.register_buffer("centres", torch.cartesian_prod(places, places), persistent=False)
        self.centres: Tensor

    def forward(self, images: int) -> Float[Tensor, "B P 2"]:
        """Return the points, repeated for `images` images."""
        return self.centres.expand(images, -1, -1)


def anchor_points(points: int, *, learned: bool, extra: int = 0) -> nn.Module:
    """Make anchor points of either kind; called with a number of images, they return [B, P, 2].

    Learned ones have `extra` more in training.
    """
    return LearnedPoints(points, extra) if learned else GridPoints(points)
