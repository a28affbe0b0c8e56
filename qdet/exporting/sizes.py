"""The size that evaluated images are resized to, as arithmetic of whole numbers within a graph."""

import torch
from jaxtyping import Int
from torch import Tensor

from qdet.data.augment import AugmentConfig


def evaluation_size(size_hw: Int[Tensor, " 2"], augment: AugmentConfig) -> Int[Tensor, " 2"]:
    """Return height and width of a resized image: those of `qdet.data.plan.views.resized`.

    Without branches, and without fractions: the short side is the smaller of what is wanted and what the
    longest side allows, rounded half to even; the long side is cut off.
    """
    least, most = size_hw.min(), size_hw.max()
    short = _round_half_even(augment.max_size * least, most).clamp(max=augment.short_side_of_evaluation)
    return torch.maximum(short, short * size_hw // size_hw.flip(0)).clamp(min=1)


def padded_size(size_hw: Int[Tensor, " 2"], multiple: int, least: int) -> Int[Tensor, " 2"]:
    """Return the sides that `size_hw` is padded to: multiples of a number, or `least` where that is more."""
    return ((size_hw + multiple - 1) // multiple * multiple).clamp(min=least)


def _round_half_even(above: Int[Tensor, ""], below: Int[Tensor, ""]) -> Int[Tensor, ""]:
    """Return above / below, rounded half to even."""
    up, rest = (2 * above + below) // (2 * below), (2 * above + below) % (2 * below)
    return up - ((rest == 0) & (up % 2 == 1)).long()
