"""Multi-scale deformable attention (Zhu et al., Deformable DETR, ICLR 2021, section 4.1).

B images   N queries   T tokens of all levels   M heads   L levels   K points   D = M d channels
"""

from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from qdet.kernels.agreement import check_agreement, wave
from qdet.kernels.choice import fall_back, kernels_wanted, trusted
from qdet.kernels.level_table import MOST_CELLS, LevelTable
from qdet.kernels.scattered_sums import ScatteredSums

NAME = "deformable_attention"
_DTYPES = (torch.bfloat16, torch.float32, torch.float64)
_BLOCK = 1024
"""Numbers of a block of queries and channels."""


def deformable_attention(
    value: Float[Tensor, "B T D"],
    points: Float[Tensor, "B N M L K 2"],
    weights: Float[Tensor, "B N M L K"],
    levels: LevelTable,
    *,
    deterministic: bool | None = None,
) -> Float[Tensor, "B N D"]:
    """Interpolate each head's values at its points and sum them by weight, in one kernel.

    Points are normalized coordinates of each map. They and the weights are read in float32, or as the values
    where those are float64; the result has the dtype of the values. `deterministic` gradients are the same
    bits in every run; by default they are where torch's must be.
    """
    fixed = torch.are_deterministic_algorithms_enabled() if deterministic is None else deterministic
    wide = torch.float64 if value.dtype == torch.float64 else torch.float32
    inputs = (value, points.to(wide), weights.to(wide))
    return _DeformableAttention.apply(*(t.contiguous() for t in inputs), levels, fixed)


def define_deformable_attention(
    value: Float[Tensor, "B T D"],
    points: Float[Tensor, "B N M L K 2"],
    weights: Float[Tensor, "B N M L K"],
    levels: LevelTable,
) -> Float[Tensor, "B N D"]:
    """Define the operation cell by cell, in torch."""
    images, _, heads = points.shape[:3]
    cells = value.unflatten(-1, (heads, -1))  # [B, T, M, d]
    image = torch.arange(images, device=value.device).view(-1, 1, 1, 1)
    head = torch.arange(heads, device=value.device).view(-1, 1)
    total, first = value.new_zeros(()), 0
    for level, (height, width) in enumerate(levels.sizes_hw):
        x, y = points[:, :, :, level, :, 0] * width - 0.5, points[:, :, :, level, :, 1] * height - 0.5
        for i in (y.detach().floor(), y.detach().floor() + 1):
            for j in (x.detach().floor(), x.detach().floor() + 1):
                inside = (i >= 0) & (i < height) & (j >= 0) & (j < width)
                row = first + i.clamp(0, height - 1) * width + j.clamp(0, width - 1)
                part = (1 - (y - i).abs()) * (1 - (x - j).abs()) * weights[:, :, :, level]
                share = torch.where(inside, part, torch.zeros_like(part))
                total = total + (cells[image, row.long(), head] * share.unsqueeze(-1)).sum(-2)
        first += height * width
    return total.flatten(2)


def deformable_attention_runs(value: Float[Tensor, "B T D"], levels: LevelTable, *, heads: int) -> bool:
    """Whether the kernel is wanted, supports these values and works on their device; says once if not."""
    if not kernels_wanted(value):
        return False
    channels = value.shape[2] // heads
    if value.dtype not in _DTYPES:
        return fall_back(NAME, f"it has no kernel for {value.dtype}")
    if channels > 256:
        return fall_back(NAME, f"{channels} channels of a head are too many for a program")
    if len(levels.sizes_hw) > 8 or levels.cells >= MOST_CELLS:
        return fall_back(NAME, f"{len(levels.sizes_hw)} levels of {levels.cells} cells in all are too many")
    kind = (value.device, value.dtype, channels)
    return trusted(NAME, kind, partial(_check, value.detach(), channels))


def _check(like: Tensor, channels: int) -> None:
    """Compare with the definition on two heads and two small levels."""
    levels = LevelTable(((3, 4), (2, 2)), (1, 1))
    value = wave(1, levels.cells, 2 * channels, like=like)
    wide = like.new_zeros((), dtype=torch.float64 if like.dtype == torch.float64 else torch.float32)
    points = 0.5 + 0.6 * wave(1, 3, 2, 2, 2, 2, like=wide, offset=0.3)
    weights = wave(1, 3, 2, 2, 2, like=wide, offset=0.5)
    check_agreement(
        partial(deformable_attention, levels=levels),
        partial(define_deformable_attention, levels=levels),
        (value, points, weights),
    )


def _grid(points: Tensor, value: Tensor) -> tuple[tuple[int], tuple[int, ...]]:
    """Return the number of programs, and the sizes that both take."""
    images, queries, heads, levels, count, _ = points.shape
    channels = value.shape[2] // heads
    padded = 1 << (channels - 1).bit_length()
    block = max(1, min(_BLOCK // padded, 1 << (queries - 1).bit_length()))
    blocks = -(-queries // block)
    sizes = (queries, value.shape[1], channels, blocks, heads, block, count, padded, levels)
    return (images * heads * blocks,), sizes


class _DeformableAttention(torch.autograd.Function):
    @staticmethod
    def forward(value: Tensor, points: Tensor, weights: Tensor, levels: LevelTable, fixed: bool) -> Tensor:
        from qdet.kernels.programs import deformable_attention as programs

        out = value.new_empty(*points.shape[:2], value.shape[2])
        if out.numel():
            grid, sizes = _grid(points, value)
            forward: Any = programs.forward  # a program as it is written; Triton adds the grid
            forward[grid](value, points, weights, levels.on_device(points), out, *sizes)
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.levels, ctx.fixed = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        from qdet.kernels.programs import deformable_attention as programs

        value, points, weights = ctx.saved_tensors
        if not grad.numel():
            return *(torch.zeros_like(t) for t in ctx.saved_tensors), None, None
        largest = grad.abs().amax().to(points.dtype) * weights.abs().amax()
        terms = points.shape[1] * points.shape[4]
        made = ScatteredSums.make(value, largest, most_terms=terms, deterministic=ctx.fixed)
        d_points, d_weights = torch.empty_like(points), torch.empty_like(weights)
        grid, sizes = _grid(points, value)
        backward: Any = programs.backward
        backward[grid](
            value, points, weights, ctx.levels.on_device(points), grad.contiguous(), made.sums,
            d_points, d_weights, made.unit, *sizes, made.fixed,
        )  # fmt: skip
        return made.read(value.dtype), d_points, d_weights, None, None
