"""The contract of a detector: images in, one prediction per decoder stage out, detections from the last.

B images   H, W padded height and width   N queries   K classes
"""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float, Int, Real, UInt8
from torch import Tensor, nn

from qdet.layers.precision import fp32_island
from qdet.types import Detections, Predictions


class Detector(nn.Module, ABC):
    """A single-device module. Training needs nothing else of it, and tests hold every detector to this.

    Images of a batch are padded at the right and bottom to one size. Boxes are pixels of the resized image,
    and no detector looks at anything of a batch but its images and their sizes.
    """

    backbone: nn.Module
    """The part that starts from pre-trained weights."""
    recompute: bool = False
    """Recompute decoder stages in the backward pass instead of keeping their activations."""

    @abstractmethod
    def forward(
        self, images: UInt8[Tensor, "B 3 H W"] | Float[Tensor, "B 3 H W"], sizes_hw: Int[Tensor, "B 2"]
    ) -> tuple[Predictions, ...]:
        """Predict from bytes (or normalised floats) and each image's size without padding, stage by stage."""

    @abstractmethod
    def detect(
        self, prediction: Predictions, sizes_hw: Int[Tensor, "B 2"], original_hw: Real[Tensor, "B 2"]
    ) -> Detections:
        """Score the boxes of one stage, usually the last, in pixels of the original images."""


@fp32_island("geometry")
def top_by_sigmoid(
    logits: Float[Tensor, "B N K"],
    boxes_xyxy: Float[Tensor, "B N 4"],
    scale_wh: Float[Tensor, "B 2"],
    count: int,
) -> Detections:
    """Take the `count` best of all N x K pairs of box and class: no suppression, threshold or clipping."""
    classes = logits.shape[-1]
    scores, pairs = logits.sigmoid().flatten(1).topk(min(count, logits[0].numel()))
    boxes = boxes_xyxy.gather(1, (pairs // classes).unsqueeze(-1).expand(-1, -1, 4))
    return Detections(boxes * scale_wh.repeat(1, 2).unsqueeze(1), scores, pairs % classes)


def resize_factors(
    sizes_hw: Int[Tensor, "B 2"], original_hw: Real[Tensor, "B 2"], dtype: torch.dtype
) -> Float[Tensor, "B 2"]:
    """Width and height of the original image per pixel of the resized one; rounding makes the two differ."""
    return (original_hw.to(dtype) / sizes_hw.to(dtype)).flip(-1)
