"""Matching costs by object: row t holds the costs of object t with all queries of its own image.

Padded to the fullest image, a batch of 16 with COCO's counts takes 5 times the entries. Coordinates are
planes, so that nothing but planes of costs is written.

    S stages   T objects of the batch   N queries
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from qdet.losses.box import MATCH_EPS

Planes = Sequence[Float[Tensor, "*#plane"]]
"""Four coordinates of boxes, each a plane [S T N], or of objects, each [T 1]."""

CACHED = 2**17
"""Costs that a CPU computes at once: their planes then stay in its cache, which took 0.8 of the time."""


def parts(objects: int, each: int, device: torch.device) -> list[slice]:
    """Cut `objects` of `each` costs into parts that are computed at once: all of them on a GPU."""
    most = max(1, CACHED // max(each, 1)) if device.type == "cpu" else max(objects, 1)
    return [slice(first, first + most) for first in range(0, objects, most)]


def focal_cost(
    logits: Float[Tensor, "*shape"], *, alpha: float = 0.25, gamma: float = 2.0, eps: float = 1e-12
) -> Float[Tensor, "*shape"]:
    """Return what a positive adds to the focal loss of a query, with logarithms floored by `eps`.

    mmdet (AdaMixer) has an eps of 1e-12, the DETR family and detectron2 1e-8.
    """
    p = logits.sigmoid()
    absent = 1 - p
    cost = (p + eps).log_().mul_(absent**gamma).mul_(-alpha)
    return cost.addcmul_((absent + eps).log_(), p**gamma, value=1 - alpha)


def l1_cost(a: Planes, b: Planes, scale: Planes) -> Float[Tensor, "S T N"]:
    """Return the sum of absolute differences of coordinates, each multiplied by its `scale`."""
    total: Tensor | None = None
    for query, wanted, factor in zip(a, b, scale, strict=True):
        difference = (query - wanted).abs_().mul_(factor)
        total = difference if total is None else total.add_(difference)
    assert total is not None
    return total


def giou_cost(a_xyxy: Planes, b_xyxy: Planes, *, margin: float | Tensor = 0.0) -> Float[Tensor, "S T N"]:
    """Return the negative generalized IoU (`qdet.boxes.generalized_iou`) of queries and objects."""
    ax0, ay0, ax1, ay1 = a_xyxy
    bx0, by0, bx1, by1 = b_xyxy
    low, high = torch.maximum, torch.minimum
    shared = _area(low(ax0, bx0), low(ay0, by0), high(ax1, bx1), high(ay1, by1))
    union = _area(ax0, ay0, ax1, ay1).add_(_area(bx0, by0, bx1, by1)).sub_(shared).clamp_(min=MATCH_EPS)
    hull = _area(high(ax0, bx0), high(ay0, by0), low(ax1, bx1), low(ay1, by1)).clamp_(min=MATCH_EPS)
    waste = (hull - union).div_(hull.add_(margin))
    return waste.sub_(shared.div_(union.add_(margin)))


def _area(left: Tensor, top: Tensor, right: Tensor, bottom: Tensor) -> Tensor:
    return (right - left).clamp_(min=0).mul_((bottom - top).clamp_(min=0))
