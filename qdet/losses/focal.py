"""Sigmoid focal loss, and the cost that matching makes of it.

Lin et al., Focal Loss for Dense Object Detection, ICCV 2017.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def focal_loss(
    logits: Float[Tensor, "*shape"],
    target: Float[Tensor, "*shape"],
    *,
    alpha: float = 0.25,
    gamma: float = 2.0,
) -> Float[Tensor, "*shape"]:
    """Cross-entropy times (1 - p_t)^gamma, times alpha for target 1 and 1 - alpha for 0; not reduced."""
    p = logits.sigmoid()
    miss = p + target - 2 * p * target  # 1 - p_t
    weight = alpha * target + (1 - alpha) * (1 - target)
    return weight * miss**gamma * F.binary_cross_entropy_with_logits(logits, target, reduction="none")


def focal_cost(
    logits: Float[Tensor, "*shape"], *, alpha: float = 0.25, gamma: float = 2.0, eps: float = 1e-12
) -> Float[Tensor, "*shape"]:
    """What calling a query positive adds to its focal loss, with logarithms floored by `eps`.

    mmdet (AdaMixer) has an eps of 1e-12, the DETR family and detectron2 1e-8.
    """
    p = logits.sigmoid()
    positive = -alpha * (1 - p) ** gamma * torch.log(p + eps)
    negative = -(1 - alpha) * p**gamma * torch.log(1 - p + eps)
    return positive - negative
