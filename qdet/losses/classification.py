"""Sigmoid focal loss, and softmax cross-entropy.

Both have a part that needs no assignment and is computed while the host still solves it.

Lin et al., Focal Loss for Dense Object Detection, ICCV 2017.

S stages   n queries of the batch   m matched pairs   K classes
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from qdet.kernels.focal_loss import focal_loss as kernel
from qdet.kernels.focal_loss import focal_loss_runs

Finish = Callable[[Int[Tensor, "S 1"], Int[Tensor, "S m"], Int[Tensor, "S m"]], Float[Tensor, " S"]]
"""Stages, queries and labels of matched pairs to the loss of each stage."""


def focal_loss(
    logits: Float[Tensor, "S n K"],
    stage: Int[Tensor, "S 1"],
    queries: Int[Tensor, "S m"],
    labels: Int[Tensor, "S m"],
    *,
    alpha: float = 0.25,
    gamma: float = 2.0,
    weights: Float[Tensor, " n"] | None = None,
) -> Float[Tensor, " S"]:
    """Sum the focal loss over each stage's queries; the classes of matched pairs are positive.

    A logit's loss is its cross-entropy times (1 - p_t)^gamma, times alpha for positives and 1 - alpha for
    negatives. First all are summed as negatives, then the few positives are corrected. `weights` are of the
    queries, by default 1.
    """
    return start_focal_loss(logits, alpha=alpha, gamma=gamma, weights=weights)(stage, queries, labels)


def start_focal_loss(
    logits: Float[Tensor, "S n K"], *, alpha: float, gamma: float, weights: Float[Tensor, " n"] | None = None
) -> Finish:
    """Compute the part of `focal_loss` that needs no assignment; return what computes the rest.

    As a kernel nothing is computed before the pairs are known: one pass over all logits is then shorter than
    a correction of few.
    """
    if focal_loss_runs(logits, alpha=alpha, gamma=gamma):
        return partial(_run_kernel, logits, alpha, gamma, weights)
    absent = _absent(logits, gamma)
    absent = absent.sum((1, 2)) if weights is None else (absent.sum(2) * weights).sum(1)
    return partial(_correct, logits, (1 - alpha) * absent, alpha, gamma, weights)


def _run_kernel(
    logits: Tensor, alpha: float, gamma: float, weights: Tensor | None, *pairs: Tensor
) -> Float[Tensor, " S"]:
    targets = torch.zeros_like(logits, dtype=torch.bool)
    targets[pairs] = True
    losses = kernel(logits, targets, alpha=alpha, gamma=gamma)
    return losses.sum(1) if weights is None else (losses * weights).sum(1)


def _correct(
    logits: Tensor,
    negatives: Float[Tensor, " S"],
    alpha: float,
    gamma: float,
    weights: Tensor | None,
    stage: Int[Tensor, "S 1"],
    queries: Int[Tensor, "S m"],
    labels: Int[Tensor, "S m"],
) -> Float[Tensor, " S"]:
    """Add to the loss of all as negatives by how much it changes as matched pairs are positive."""
    matched = logits[stage, queries, labels]
    change = alpha * _absent(-matched, gamma) - (1 - alpha) * _absent(matched, gamma)
    return negatives + (change if weights is None else change * weights[queries]).sum(1)


def _absent(logits: Float[Tensor, "*shape"], gamma: float) -> Float[Tensor, "*shape"]:
    return _Absent.apply(logits, gamma)


class _Absent(torch.autograd.Function):
    """-p^gamma log(1 - p), the focal loss of negatives, before alpha.

    Autograd would save a tensor as large as the logits for each factor. This saves the logits alone.
    """

    @staticmethod
    def forward(logits: Tensor, gamma: float) -> Tensor:
        return logits.sigmoid().pow_(gamma).mul_(F.logsigmoid(-logits)).neg_()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        logits, ctx.gamma = inputs
        ctx.save_for_backward(logits)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]  # one result
        (logits,) = ctx.saved_tensors
        p = logits.sigmoid()
        slope = F.logsigmoid(-logits).mul_(p - 1).mul_(ctx.gamma).add_(p)
        return slope.mul_(p.pow_(ctx.gamma)).mul_(grad), None


def softmax_loss(
    likelihood: Float[Tensor, "S n K"],
    stage: Int[Tensor, "S 1"],
    queries: Int[Tensor, "S m"],
    labels: Int[Tensor, "S m"],
    no_object: float,
) -> Float[Tensor, " S"]:
    """Sum the cross-entropy of each stage's queries; those without an object weigh `no_object`.

    `likelihood` is the logarithm of a softmax, which needs no assignment. DETR (ECCV 2020, section 3.1)
    divides the sum by that of the weights; the caller does so.
    """
    nothing = likelihood[..., -1]
    told = likelihood[stage, queries, labels]
    return -(told.sum(1) + no_object * (nothing.sum(1) - nothing[stage, queries].sum(1)))
