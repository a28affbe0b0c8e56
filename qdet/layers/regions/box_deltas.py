"""Box deltas of the R-CNN family: shifts relative to the box's size, and log scales.

B images   N boxes

Girshick et al., CVPR 2014, https://arxiv.org/abs/1311.2524, appendix C, with detectron2's weights for the
later stages of a cascade, which Sparse R-CNN uses for all.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from qdet.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh
from qdet.layers.precision import fp32_island

CENTRE_WEIGHT = 2.0
"""Divides predicted shifts; predicted log scales are used unchanged."""
MAX_LOG_SCALE = math.log(100_000 / 16)
"""Largest log scale per step, so that the exponential stays finite."""


@fp32_island("geometry")
def apply_deltas(
    boxes_xyxy: Float[Tensor, "B N 4"], deltas: Float[Tensor, "B N 4"]
) -> Float[Tensor, "B N 4"]:
    """Return c + size dx / 2 and size exp(dw), as corners; neither is kept inside the image."""
    centre, size = xyxy_to_cxcywh(boxes_xyxy).chunk(2, dim=-1)
    shift, log_scale = deltas.chunk(2, dim=-1)
    scale = log_scale.clamp(max=MAX_LOG_SCALE).exp()
    return cxcywh_to_xyxy(torch.cat((centre + size * (shift / CENTRE_WEIGHT), size * scale), dim=-1))
