"""Box losses of n pairs: L1 in normalized coordinates, and GIoU."""

from jaxtyping import Float
from torch import Tensor

from qdet.boxes import generalized_iou

MATCH_EPS = 1e-6
"""Floor of union and hull in mmdet's GIoU cost."""
LOSS_EPS = 1e-7
"""Floor of union and hull in mmdet's GIoU loss."""


def l1_loss(a: Float[Tensor, "*n 4"], b: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n"]:
    """Return each pair's sum of absolute differences."""
    return (a - b).abs().sum(-1)


def giou_loss(
    a_xyxy: Float[Tensor, "*n 4"], b_xyxy: Float[Tensor, "*n 4"], *, margin: float | Tensor = 0.0
) -> Float[Tensor, "*n"]:
    """Return 1 - GIoU of each pair."""
    return 1 - generalized_iou(a_xyxy, b_xyxy, eps=LOSS_EPS, margin=margin)
