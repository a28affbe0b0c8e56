"""Matching costs by object: row t holds the costs of object t with all queries of its own image.

Padded to the fullest image, a batch of 16 with COCO's counts takes 5 times the entries. Coordinates are
planes, so that nothing but planes of costs is written.

    S stages   T objects of the batch   N queries
"""

import torch
from jaxtyping import Float
from torch import Tensor

from qdet.losses.box import MATCH_EPS

Planes = Float[Tensor, "4 *#plane"]
"""Four coordinates of boxes, each a plane [S T N], or of objects, each [1 T 1]."""

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
    return (a - b).abs_().mul_(scale).sum(0)


def giou_cost(a_xyxy: Planes, b_xyxy: Planes, *, margin: float | Tensor = 0.0) -> Float[Tensor, "S T N"]:
    """Return the negative generalized IoU (`qdet.boxes.generalized_iou`) of queries and objects."""
    a_low, a_high, b_low, b_high = *a_xyxy.split(2), *b_xyxy.split(2)
    shared = _area(torch.maximum(a_low, b_low), torch.minimum(a_high, b_high))
    union = _area(a_low, a_high).add(_area(b_low, b_high)).sub_(shared).clamp_(min=MATCH_EPS)
    hull = _area(torch.minimum(a_low, b_low), torch.maximum(a_high, b_high)).clamp_(min=MATCH_EPS)
    waste = (hull - union).div_(hull.add_(margin))
    return waste.sub_(shared.div_(union.add_(margin)))


def _area(low: Float[Tensor, "2 *plane"], high: Float[Tensor, "2 *plane"]) -> Float[Tensor, "*plane"]:
    width, height = (high - low).clamp_(min=0)
    return width * height
