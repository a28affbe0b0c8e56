"""AdaMixer's boxes: decoding, refining, and how far one lies inside another.

AdaMixer (Gao et al., CVPR 2022, https://arxiv.org/abs/2203.16507), section 3.1. A box is (x, y, z, r): its
centre in pixels, z = log2 sqrt(w h), r = log2(h / w). The authors' code and the paper write r
differently; this is the code's, which the published weights need.

    B images   N queries
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from qdet.boxes import area, cxcywh_to_xyxy, cxcywh_to_xyzr, intersection, xyzr_to_cxcywh
from qdet.layers.precision import fp32_island


@dataclass(frozen=True)
class PlacedBoxes:
    """Boxes as a stage reads them, decoded once for all that do."""

    xyzr: Float[Tensor, "B N 4"]
    size_wh: Float[Tensor, "B N 2"]
    """In pixels."""
    xyxy: Float[Tensor, "B N 4"]
    """Corners in pixels."""

    def detach(self) -> "PlacedBoxes":
        """Return the same boxes, to which no gradient passes."""
        return PlacedBoxes(self.xyzr.detach(), self.size_wh.detach(), self.xyxy.detach())


@fp32_island("geometry")
def place(xyzr: Float[Tensor, "B N 4"]) -> PlacedBoxes:
    """Decode boxes."""
    cxcywh = xyzr_to_cxcywh(xyzr)
    return PlacedBoxes(xyzr, cxcywh[..., 2:], cxcywh_to_xyxy(cxcywh))


@fp32_island("geometry")
def refine_xyzr(xyzr: Float[Tensor, "B N 4"], delta: Float[Tensor, "B N 4"]) -> Float[Tensor, "B N 4"]:
    """Move the centre relative to the box's scale 2^z, and add to z and r. Nothing is clamped."""
    moved, rest = delta.split(2, dim=-1)
    centre = torch.addcmul(xyzr[..., :2], moved, torch.exp2(xyzr[..., 2:3]))
    return torch.cat((centre, xyzr[..., 2:] + rest), dim=-1)


@fp32_island("overlap")
def log_iof(boxes_xyxy: Float[Tensor, "B N 4"]) -> Float[Tensor, "B N N"]:
    """Return the log of the fraction of box i (rows) covered by box j (columns), at least log(1e-7) = -16.1.

    IoF_ij = |i and j| / |i|: a small box inside a large one is wholly covered, and not the other way round.
    """
    covered = intersection(boxes_xyxy.unsqueeze(2), boxes_xyxy.unsqueeze(1))
    return torch.log(covered / area(boxes_xyxy).clamp(min=1e-6).unsqueeze(2) + 1e-7)


@fp32_island("geometry")
def scale_to_images(
    boxes_cxcywh: Float[Tensor, "... N 4"], sizes_hw: Int[Tensor, "B 2"]
) -> Float[Tensor, "B N 4"]:
    """Convert normalized boxes, of all images alike or of each, to xyzr in pixels of the unpadded images."""
    return cxcywh_to_xyzr(boxes_cxcywh * sizes_hw.flip(-1).repeat(1, 2).unsqueeze(1))
