"""AdaMixer's bias of attention by the overlap of boxes (Gao et al., CVPR 2022, section 3.4).

B images   N queries   M heads
"""

from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from qdet.kernels.agreement import check_agreement, wave
from qdet.kernels.choice import fall_back, interpreting, kernels_wanted, trusted

NAME = "overlap_bias"
_DTYPES = (torch.bfloat16, torch.float32, torch.float64)
_ROWS, _COLUMNS = 16, 64
"""Pairs of a program."""


def overlap_bias(
    boxes_xyxy: Float[Tensor, "B N 4"], scale: Float[Tensor, " M"], dtype: torch.dtype
) -> Float[Tensor, "B M N N"]:
    """Return every head's scale times the log of IoF_ij = |i and j| / |i|, in `dtype`, in one kernel.

    Computed in the dtype of the boxes, which get no gradient. Nothing is saved but the inputs; the gradient
    of the scale is the same bits in every run.
    """
    return _OverlapBias.apply(boxes_xyxy.contiguous(), scale.contiguous(), dtype)


def define_overlap_bias(
    scale: Float[Tensor, " M"], *, boxes_xyxy: Float[Tensor, "B N 4"]
) -> Float[Tensor, "B M N N"]:
    """Define the operation formula by formula, in torch."""
    left, top, right, bottom = boxes_xyxy.to(scale.dtype).unsqueeze(1).unbind(-1)  # each [B, 1, N]
    covered = _overlap_length(left, right).clamp(min=0) * _overlap_length(top, bottom).clamp(min=0)
    area = (right - left).clamp(min=0) * (bottom - top).clamp(min=0)
    iof = covered / area.clamp(min=1e-6).unsqueeze(-1)
    return scale.view(-1, 1, 1) * torch.log(iof + 1e-7)


def _overlap_length(low: Float[Tensor, "B 1 N"], high: Float[Tensor, "B 1 N"]) -> Float[Tensor, "B 1 N N"]:
    """Return the length that every two intervals share, below 0 where they are apart."""
    ends = torch.minimum(high.unsqueeze(-1), high.unsqueeze(-2))
    return ends - torch.maximum(low.unsqueeze(-1), low.unsqueeze(-2))


def overlap_bias_runs(boxes_xyxy: Float[Tensor, "B N 4"], *, heads: int, dtype: torch.dtype) -> bool:
    """Whether the kernel is wanted, gives a bias in `dtype` for these boxes and works; says once if not."""
    if boxes_xyxy.requires_grad or not kernels_wanted(boxes_xyxy):
        return False
    if dtype not in _DTYPES or boxes_xyxy.dtype not in _DTYPES[1:]:
        return fall_back(NAME, f"it has no kernel for boxes in {boxes_xyxy.dtype} and a bias in {dtype}")
    kind = (boxes_xyxy.device, boxes_xyxy.dtype, dtype, heads)
    return trusted(NAME, kind, partial(_check, boxes_xyxy.detach(), heads, dtype))


def _check(like: Tensor, heads: int, dtype: torch.dtype) -> None:
    """Compare with the definition on a few boxes."""
    corners = 50 * wave(1, 5, 2, like=like)
    boxes = torch.cat((corners, corners + 20 + 60 * wave(1, 5, 2, like=like, offset=0.3).abs()), dim=-1)
    check_agreement(
        lambda scale: overlap_bias(boxes, scale, dtype),
        partial(define_overlap_bias, boxes_xyxy=boxes),
        (2 + wave(heads, like=like),),
        rounded=dtype,
    )


def _grid(boxes: Tensor) -> tuple[int, int, int]:
    images, queries, _ = boxes.shape
    return -(-queries // _ROWS), -(-queries // _COLUMNS), images


class _OverlapBias(torch.autograd.Function):
    @staticmethod
    def forward(boxes: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
        from qdet.kernels.programs import overlap_bias as programs

        images, queries, _ = boxes.shape
        out = boxes.new_empty(images, len(scale), queries, queries, dtype=dtype)
        if out.numel():
            forward: Any = programs.forward  # a program as it is written; Triton adds the grid
            forward[_grid(boxes)](boxes, scale, out, queries, len(scale), _ROWS, _COLUMNS, interpreting())
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        boxes, scale, _ = inputs
        ctx.save_for_backward(boxes, scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        from qdet.kernels.programs import overlap_bias as programs

        boxes, scale = ctx.saved_tensors
        if not grad.numel():
            return None, torch.zeros_like(scale), None
        grid = _grid(boxes)
        parts = boxes.new_empty(torch.Size(grid).numel(), len(scale))
        backward: Any = programs.backward
        backward[grid](boxes, grad, parts, boxes.shape[1], *grad.stride(), len(scale), _ROWS, _COLUMNS)
        return None, parts.sum(0).to(scale.dtype), None
