"""Sigmoid focal loss (Lin et al., ICCV 2017) with dense targets, summed over the classes of a query.

K classes
"""

from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from qdet.kernels.agreement import check_agreement, wave
from qdet.kernels.choice import fall_back, kernels_wanted, trusted

NAME = "focal_loss"
_DTYPES = (torch.bfloat16, torch.float32, torch.float64)
_BLOCK = 4096
"""Numbers of a block of queries and classes, and the most classes."""


def focal_loss(
    logits: Float[Tensor, "*n K"], targets: Bool[Tensor, "*n K"], *, alpha: float = 0.25, gamma: float = 2.0
) -> Float[Tensor, "*n"]:
    """Sum each query's focal loss over its classes, of which `targets` are there, in one kernel.

    A logit's loss is its cross-entropy times (1 - p_t)^gamma, times alpha where the class is there and
    1 - alpha elsewhere, computed in float32 or wider, which is the dtype of the result. Only the inputs are
    saved; gradients are the same bits in every run.
    """
    return _FocalLoss.apply(logits.contiguous(), targets.contiguous(), float(alpha), float(gamma))


def define_focal_loss(
    logits: Float[Tensor, "*n K"], targets: Bool[Tensor, "*n K"], *, alpha: float = 0.25, gamma: float = 2.0
) -> Float[Tensor, "*n"]:
    """Define the operation formula by formula, in torch."""
    signed = torch.where(targets, logits, -logits)  # p_t is the sigmoid of these
    weight = torch.where(targets, alpha, 1 - alpha).to(logits.dtype)
    cross_entropy = -torch.nn.functional.logsigmoid(signed)
    return (weight * torch.sigmoid(-signed) ** gamma * cross_entropy).sum(-1)


def focal_loss_runs(logits: Float[Tensor, "*n K"], *, alpha: float, gamma: float) -> bool:
    """Whether the kernel is wanted, supports these logits and works on their device; says once if not."""
    if not kernels_wanted(logits):
        return False
    classes = logits.shape[-1]
    if logits.dtype not in _DTYPES:
        return fall_back(NAME, f"it has no kernel for {logits.dtype}")
    if classes > _BLOCK:
        return fall_back(NAME, f"{classes} classes are too many for a program")
    kind = (logits.device, logits.dtype, classes, alpha, gamma)
    return trusted(NAME, kind, partial(_check, logits.detach(), alpha, gamma))


def _check(like: Tensor, alpha: float, gamma: float) -> None:
    """Compare with the definition on three queries, each with every fifth class."""
    logits = 9 * wave(3, like.shape[-1], like=like)
    targets = (torch.arange(logits.numel(), device=like.device) % 5 == 0).view_as(logits)
    check_agreement(
        partial(focal_loss, targets=targets, alpha=alpha, gamma=gamma),
        partial(define_focal_loss, targets=targets, alpha=alpha, gamma=gamma),
        (logits,),
    )


def _grid(logits: Tensor) -> tuple[tuple[int], tuple[int, ...]]:
    """Return the number of programs, and the sizes that both take."""
    classes = logits.shape[-1]
    rows, padded = logits.numel() // classes, 1 << (classes - 1).bit_length()
    block = max(1, min(_BLOCK // padded, 1 << (rows - 1).bit_length()))
    return (-(-rows // block),), (rows, classes, block, padded)


class _FocalLoss(torch.autograd.Function):
    @staticmethod
    def forward(logits: Tensor, targets: Tensor, alpha: float, gamma: float) -> Tensor:
        from qdet.kernels.programs import focal_loss as programs

        wide = torch.float64 if logits.dtype == torch.float64 else torch.float32
        out = logits.new_zeros(logits.shape[:-1], dtype=wide)
        if logits.numel():
            grid, sizes = _grid(logits)
            forward: Any = programs.forward  # a program as it is written; Triton adds the grid
            forward[grid](logits, targets.view(torch.uint8), out, *sizes, alpha, gamma)
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        logits, targets, ctx.alpha, ctx.gamma = inputs
        ctx.save_for_backward(logits, targets)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        from qdet.kernels.programs import focal_loss as programs

        logits, targets = ctx.saved_tensors
        d_logits = torch.empty_like(logits)
        if logits.numel():
            grid, sizes = _grid(logits)
            backward: Any = programs.backward
            inputs = (logits, targets.view(torch.uint8), grad.contiguous(), d_logits)
            backward[grid](*inputs, *sizes, ctx.alpha, ctx.gamma)
        return d_logits, None, None, None
