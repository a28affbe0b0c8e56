"""Boxes as the DETR family predicts them: sigmoids, often offset from a reference point.

B images   N queries   cxcywh normalized coordinates of the unpadded image
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from qdet.boxes import cxcywh_to_xyxy
from qdet.layers.precision import fp32_island


@fp32_island("geometry")
def inverse_sigmoid(x: Float[Tensor, "*n"], eps: float = 1e-5) -> Float[Tensor, "*n"]:
    """Return log(x / (1 - x)), both floored at `eps`: 1e-5 in most authors' code, 1e-3 in DAB-DETR's."""
    x = x.clamp(0, 1)
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))


@fp32_island("geometry")
def boxes_from(
    delta: Float[Tensor, "*n 4"], reference: Float[Tensor, "*#n _"], *, eps: float = 1e-5
) -> Float[Tensor, "*n 4"]:
    """Return sigmoid(delta + inverse sigmoid of the reference), a point (k = 2) or a box (k = 4).

    A point offsets the centre only; width and height are then those of `delta`.
    """
    return boxes_at(delta, inverse_sigmoid(reference, eps))


@fp32_island("geometry")
def boxes_at(delta: Float[Tensor, "*n 4"], anchor: Float[Tensor, "*#n _"]) -> Float[Tensor, "*n 4"]:
    """Return sigmoid(delta + anchor), where the anchor is a point or a box before the sigmoid."""
    return (delta + F.pad(anchor, (0, 4 - anchor.shape[-1]))).sigmoid()


@fp32_island("geometry")
def to_pixels(
    boxes_cxcywh: Float[Tensor, "*S B N 4"], sizes_hw: Int[Tensor, "B 2"]
) -> Float[Tensor, "*S B N 4"]:
    """Convert boxes from normalized coordinates to corners in pixels."""
    extent = sizes_hw.flip(-1).repeat(1, 2).unsqueeze(1)  # [B, 1, 4]: w, h, w, h
    return cxcywh_to_xyxy(boxes_cxcywh) * extent.to(boxes_cxcywh.dtype)
