"""AdaMixer's adaptive mixing (Gao et al., CVPR 2022, section 3.3): along channels, then along points.

B images   N queries   G groups   P points in   O points out   C channels per group
W = C C + O P numbers of a group's matrices
"""

from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from qdet.kernels.agreement import check_agreement, wave
from qdet.kernels.choice import fall_back, interpreting, kernels_wanted, trusted

NAME = "adaptive_mixing"
EPS = 1e-5
"""Added to the variance, as `torch.nn.functional.layer_norm` does."""
_DTYPES = (torch.bfloat16, torch.float32, torch.float64)
_LEAST = 16
"""Rows and columns of the smallest block that matrix units multiply."""
_MOST_BYTES = 2**16
"""Bytes of the largest block of a program."""


def adaptive_mixing(
    sampled: Float[Tensor, "B N G P C"], weights: Float[Tensor, "B N G W"], points_out: int
) -> Float[Tensor, "B N G O C"]:
    """Return ReLU(LN(M_s ReLU(LN(x M_c)))) of every group in one kernel, in the dtype of both inputs.

    `weights` are M_c [C, C], then M_s [O, P]; LN normalizes over both axes, without affine weights. Products
    and norms are summed in float32 or wider. Only the inputs are saved; gradients are the same bits in
    every run.
    """
    return _AdaptiveMixing.apply(sampled.contiguous(), weights.contiguous(), points_out)


def define_adaptive_mixing(
    sampled: Float[Tensor, "B N G P C"],
    weights: Float[Tensor, "B N G W"],
    points_out: int,
    *,
    rounded: torch.dtype | None = None,
) -> Float[Tensor, "B N G O C"]:
    """Define the operation formula by formula, in torch.

    What comes out of the first norm is `rounded` to the dtype of a matrix product, if one is named: otherwise
    numbers near zero would pass the second ReLU here and not there, and their gradients with them.
    """
    points, channels = sampled.shape[-2:]
    by_channel, by_point = weights.split([channels * channels, points_out * points], dim=-1)
    hidden = _define_norm(sampled @ by_channel.unflatten(-1, (channels, channels)))
    exact = hidden.detach()
    hidden = hidden + (exact.to(rounded or exact.dtype).to(exact.dtype) - exact)
    return _define_norm(by_point.unflatten(-1, (points_out, points)) @ hidden)


def _define_norm(x: Float[Tensor, "*n rows C"]) -> Float[Tensor, "*n rows C"]:
    mean = x.mean((-2, -1), keepdim=True)
    variance = ((x - mean) ** 2).mean((-2, -1), keepdim=True)
    return ((x - mean) / (variance + EPS).sqrt()).relu()


def adaptive_mixing_runs(sampled: Float[Tensor, "B N G P C"], *, points_out: int, dtype: torch.dtype) -> bool:
    """Whether the kernel is wanted, supports samples read in `dtype` and works; says once if not."""
    if not kernels_wanted(sampled):
        return False
    points, channels = sampled.shape[-2:]
    if dtype not in _DTYPES:
        return fall_back(NAME, f"it has no kernel for {dtype}")
    if _largest_block(points, channels, points_out) * max(dtype.itemsize, 4) > _MOST_BYTES:
        return fall_back(
            NAME,
            f"{points} points of {channels} channels, mixed to {points_out}, are too many for a program",
        )
    kind = (sampled.device, dtype, points, channels, points_out)
    return trusted(NAME, kind, partial(_check, sampled.detach(), points_out, dtype))


def _check(like: Tensor, points_out: int, dtype: torch.dtype) -> None:
    """Compare with the definition on one query."""
    points, channels = like.shape[-2:]
    like = torch.empty((), dtype=dtype, device=like.device)
    x = wave(1, 1, 1, points, channels, like=like)
    weights = 0.3 * wave(1, 1, 1, channels * channels + points_out * points, like=like, offset=0.3)
    check_agreement(
        partial(adaptive_mixing, points_out=points_out),
        partial(define_adaptive_mixing, points_out=points_out, rounded=dtype),
        (x, weights),
    )


def _blocks(points: int, channels: int, points_out: int) -> tuple[int, int, int]:
    """Return the next powers of two that matrix units multiply."""
    p, c, o = (max(_LEAST, 1 << (size - 1).bit_length()) for size in (points, channels, points_out))
    return p, c, o


def _largest_block(points: int, channels: int, points_out: int) -> int:
    p, c, o = _blocks(points, channels, points_out)
    return max(p * c, c * c, o * p, o * c)


def _sizes(sampled: Tensor, points_out: int) -> tuple[Any, ...]:
    """Return the sizes and constants that both programs take."""
    points, channels = sampled.shape[-2:]
    return points, channels, points_out, *_blocks(points, channels, points_out), EPS, interpreting()


class _AdaptiveMixing(torch.autograd.Function):
    @staticmethod
    def forward(sampled: Tensor, weights: Tensor, points_out: int) -> Tensor:
        from qdet.kernels.programs import adaptive_mixing as programs

        out = sampled.new_empty(*sampled.shape[:3], points_out, sampled.shape[-1])
        if out.numel():
            forward: Any = programs.forward  # a program as it is written; Triton adds the grid
            grid = (sampled.shape[:3].numel(),)
            forward[grid](sampled, weights, out, *_sizes(sampled, points_out), num_warps=4)
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        sampled, weights, ctx.points_out = inputs
        ctx.save_for_backward(sampled, weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        from qdet.kernels.programs import adaptive_mixing as programs

        sampled, weights = ctx.saved_tensors
        d_sampled, d_weights = torch.empty_like(sampled), torch.empty_like(weights)
        if grad.numel():
            backward: Any = programs.backward
            backward[(sampled.shape[:3].numel(),)](
                sampled, weights, grad.contiguous(), d_sampled, d_weights,
                *_sizes(sampled, ctx.points_out), num_warps=8,
            )  # fmt: skip
        return d_sampled, d_weights, None
