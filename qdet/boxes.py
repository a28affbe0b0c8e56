"""Box formats, areas and overlaps: pure functions over the last axis.

    xyxy   left, top, right, bottom
    cxcywh centre, width, height
    xyzr   AdaMixer's (Gao et al., CVPR 2022, section 3.1): centre, z = log2 sqrt(w h), r = log2(h / w)

Names carry the format; units (pixels or normalized coordinates) are up to the caller. A box of zero or
negative size has area 0. Functions keep the dtype they are given, so coordinates belong in fp32 or wider.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def cxcywh_to_xyxy(boxes: Float[Tensor, "... 4"]) -> Float[Tensor, "... 4"]:
    """Centre and size to corners."""
    centre, size = boxes.split(2, dim=-1)
    return torch.cat((torch.sub(centre, size, alpha=0.5), torch.add(centre, size, alpha=0.5)), dim=-1)


def xyxy_to_cxcywh(boxes: Float[Tensor, "... 4"]) -> Float[Tensor, "... 4"]:
    """Corners to centre and size."""
    low, high = boxes.split(2, dim=-1)
    return torch.cat(((low + high) / 2, high - low), dim=-1)


def cxcywh_to_xyzr(boxes: Float[Tensor, "... 4"]) -> Float[Tensor, "... 4"]:
    """Centre and size to AdaMixer's positional vector; sizes must be positive."""
    centre, size = boxes.split(2, dim=-1)
    w, h = size.unbind(-1)
    return torch.cat((centre, torch.stack((0.5 * torch.log2(w * h), torch.log2(h / w)), dim=-1)), dim=-1)


def xyzr_to_cxcywh(boxes: Float[Tensor, "... 4"]) -> Float[Tensor, "... 4"]:
    """AdaMixer's vector to centre and size, w = 2^(z - r/2) and h = 2^(z + r/2), as in the authors' code."""
    centre, z, r = boxes.split((2, 1, 1), dim=-1)
    logs = torch.cat((torch.sub(z, r, alpha=0.5), torch.add(z, r, alpha=0.5)), dim=-1)
    return torch.cat((centre, torch.exp2(logs)), dim=-1)


def area(boxes_xyxy: Float[Tensor, "... 4"]) -> Float[Tensor, "..."]:
    """Width times height, 0 for a box whose corners are swapped."""
    low, high = boxes_xyxy.split(2, dim=-1)
    w, h = (high - low).clamp(min=0).unbind(-1)
    return w * h


def intersection(a_xyxy: Float[Tensor, "... 4"], b_xyxy: Float[Tensor, "... 4"]) -> Float[Tensor, "..."]:
    """Area that two boxes share; broadcasts."""
    (a_low, a_high), (b_low, b_high) = a_xyxy.split(2, dim=-1), b_xyxy.split(2, dim=-1)
    w, h = (torch.minimum(a_high, b_high) - torch.maximum(a_low, b_low)).clamp(min=0).unbind(-1)
    return w * h


def iou(
    a_xyxy: Float[Tensor, "... 4"], b_xyxy: Float[Tensor, "... 4"], *, eps: float = 0.0
) -> Float[Tensor, "..."]:
    """Intersection over union; broadcasts. The union is floored at `eps` (at 0, two empty boxes give NaN)."""
    inter = intersection(a_xyxy, b_xyxy)
    return inter / (area(a_xyxy) + area(b_xyxy) - inter).clamp(min=eps)


def generalized_iou(
    a_xyxy: Float[Tensor, "... 4"],
    b_xyxy: Float[Tensor, "... 4"],
    *,
    eps: float = 0.0,
    margin: float | Tensor = 0.0,
) -> Float[Tensor, "..."]:
    """GIoU (Rezatofighi et al., CVPR 2019): IoU - (hull - union) / hull, in [-1, 1]; broadcasts.

    Union and hull are floored at `eps`: 1e-6 in mmdet's matching cost, 1e-7 in its loss, 0 in DETR's code.
    DAB-DETR's divides by them plus a `margin`.
    """
    inter = intersection(a_xyxy, b_xyxy)
    union = (area(a_xyxy) + area(b_xyxy) - inter).clamp(min=eps)
    (a_low, a_high), (b_low, b_high) = a_xyxy.split(2, dim=-1), b_xyxy.split(2, dim=-1)
    w, h = (torch.maximum(a_high, b_high) - torch.minimum(a_low, b_low)).clamp(min=0).unbind(-1)
    hull = (w * h).clamp(min=eps)
    return inter / (union + margin) - (hull - union) / (hull + margin)


def clip(boxes_xyxy: Float[Tensor, "... 4"], size_hw: Float[Tensor, "... 2"]) -> Float[Tensor, "... 4"]:
    """Clip boxes to an image of that height and width."""
    wh = size_hw.flip(-1)
    limit = torch.cat((wh, wh), dim=-1)
    return torch.minimum(boxes_xyxy.clamp(min=0), limit)
