"""The size that evaluated images are resized to, as arithmetic within a graph, by the rules of pipelines."""

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from qdet.data.augment import AugmentConfig


def evaluation_size(size_hw: Int[Tensor, " 2"], augment: AugmentConfig) -> Int[Tensor, " 2"]:
    """Return height and width of an evaluated image: those of `qdet.data.plan.views.evaluation_views`."""
    return _RULES[augment.pipeline](size_hw, augment.short_side_of_evaluation, augment.max_size)


def _detr_size(size_hw: Int[Tensor, " 2"], short: int, longest: int) -> Int[Tensor, " 2"]:
    """Return the size that `detr_sizes` gives, in whole numbers.

    Without branches, and without fractions: the short side is the smaller of what is wanted and what the
    longest side allows, rounded half to even; the long side is cut off.
    """
    least, most = size_hw.min(), size_hw.max()
    side = _round_half_even(longest * least, most).clamp(max=short)
    return torch.maximum(side, side * size_hw // size_hw.flip(0)).clamp(min=1)


def _mmdet_size(size_hw: Int[Tensor, " 2"], short: int, longest: int) -> Int[Tensor, " 2"]:
    """Return the size that `mmdet_sizes` gives, in its fractions of 64 bits: ties depend on their errors."""
    sides = size_hw.double()
    scale = torch.minimum(_divide(longest, sides.max()), _divide(short, sides.min()))
    return _round_half_up(sides * scale)


def _detectron2_size(size_hw: Int[Tensor, " 2"], short: int, longest: int) -> Int[Tensor, " 2"]:
    """Return the size that `detectron2_sizes` gives, in its fractions of 64 bits."""
    sides = size_hw.double()
    least = sides.min()
    new = torch.where(sides == least, torch.full_like(sides, short), sides * _divide(short, least))
    most = new.max()
    return _round_half_up(torch.where(most > longest, new * _divide(longest, most), new))


_RULES = {"detr": _detr_size, "mmdet": _mmdet_size, "detectron2": _detectron2_size}


def padded_size(size_hw: Int[Tensor, " 2"], multiple: int, least: int) -> Int[Tensor, " 2"]:
    """Return the sides that `size_hw` is padded to: multiples of a number, or `least` where that is more."""
    return ((size_hw + multiple - 1) // multiple * multiple).clamp(min=least)


def _round_half_even(above: Int[Tensor, ""], below: Int[Tensor, ""]) -> Int[Tensor, ""]:
    """Return above / below, rounded half to even."""
    up, rest = (2 * above + below) // (2 * below), (2 * above + below) % (2 * below)
    return up - ((rest == 0) & (up % 2 == 1)).long()


def _round_half_up(sides: Float64[Tensor, " 2"]) -> Int[Tensor, " 2"]:
    return (sides + 0.5).floor().long().clamp(min=1)


def _divide(above: int, below: Float64[Tensor, ""]) -> Float64[Tensor, ""]:
    """Divide once: torch turns a number over a tensor into a product, which rounds twice."""
    return torch.full_like(below, above) / below
