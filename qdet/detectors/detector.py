"""The contract of a detector: images in, one prediction per decoder stage out, detections from the last.

B images   H, W padded height and width   N queries   K classes
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int, Real, UInt8
from torch import Tensor, nn

from qdet.backbones import Backbone
from qdet.boxes import area, clip
from qdet.data.denoising.config import DenoisingConfig
from qdet.errors import ConfigError
from qdet.layers.pixels import normalize
from qdet.layers.precision import fp32_island
from qdet.types import BatchDetections, ExtraQueries, PaddedSizes, Predictions


class Detector(nn.Module, ABC):
    """A single-device module; training relies on this interface alone, and contract tests check it.

    Images of a batch are padded at the right and bottom to one size. Boxes are in pixels of the resized
    image. A detector reads nothing of a batch but its images and their sizes. One that is trained with
    denoising also gets extra queries in training, made of noised objects, but never the objects themselves.
    """

    backbone: Backbone
    """The part that is initialised with pre-trained weights."""
    detections: int
    """Maximum number of detections per image."""
    recompute: bool = False
    """Recompute stages in the backward pass instead of keeping their activations."""
    progress: float = 1.0
    """Fraction of training completed; some detectors depend on it."""
    fixed: tuple[str, ...] = ()
    """Names of modules that stay in evaluation mode while the others are trained."""
    denoising: DenoisingConfig = DenoisingConfig()
    """How its training adds extra queries; by default it has none."""
    class_agnostic: tuple[str, ...] = ()
    """Names of class heads whose first row stands for an object of any class; others are never trained."""

    def forward(
        self, images: UInt8[Tensor, "B 3 H W"] | Float[Tensor, "B 3 H W"], sizes_hw: Int[Tensor, "B 2"]
    ) -> tuple[Predictions, ...]:
        """Predict from bytes (or normalised floats) and unpadded image sizes, stage by stage."""
        features = self.backbone(normalize(images, sizes_hw))
        return self.decode(features, PaddedSizes(sizes_hw, (images.shape[-2], images.shape[-1])))

    @abstractmethod
    def decode(
        self, features: Sequence[Float[Tensor, "B _ _ _"]], sizes: PaddedSizes
    ) -> tuple[Predictions, ...]:
        """Predict from the backbone's maps, finest first: the stages in order, `Proposals` before them."""

    def detect(
        self, prediction: Predictions, sizes_hw: Int[Tensor, "B 2"], original_hw: Real[Tensor, "B 2"]
    ) -> BatchDetections:
        """Score the boxes of one stage, usually the last, in pixels of the original images.

        By default the best pairs of query and class, without clipping, as most authors do.
        """
        scale = resize_factors(sizes_hw, original_hw, prediction.boxes_xyxy.dtype)
        return top_by_sigmoid(prediction.logits, prediction.boxes_xyxy, scale, self.detections)

    def train(self, mode: bool = True) -> "Detector":
        """Switch to training mode, or back, except for what is `fixed`."""
        super().train(mode)
        for name in self.fixed:
            self.get_submodule(name).eval()
        return self

    @property
    def recomputes(self) -> bool:
        """Whether this pass trades activations for a second forward pass."""
        return self.recompute and self.training


class DenoisingDetector(Detector):
    """A detector that may be trained with extra queries, of which nothing is left in evaluation."""

    def forward(
        self,
        images: UInt8[Tensor, "B 3 H W"] | Float[Tensor, "B 3 H W"],
        sizes_hw: Int[Tensor, "B 2"],
        extra: ExtraQueries | None = None,
    ) -> tuple[Predictions, ...]:
        """Predict as every detector does, and in training also from `extra` queries.

        Their `Reconstructions` come before the predictions.
        """
        features = self.backbone(normalize(images, sizes_hw))
        return self.decode(features, PaddedSizes(sizes_hw, (images.shape[-2], images.shape[-1])), extra)

    @abstractmethod
    def decode(
        self,
        features: Sequence[Float[Tensor, "B _ _ _"]],
        sizes: PaddedSizes,
        extra: ExtraQueries | None = None,
    ) -> tuple[Predictions, ...]:
        """Predict from the backbone's maps; `Reconstructions` stand between `Proposals` and stages."""


@fp32_island("geometry")
def top_by_sigmoid(
    logits: Float[Tensor, "B N K"],
    boxes_xyxy: Float[Tensor, "B N 4"],
    scale_wh: Float[Tensor, "B 2"],
    count: int,
) -> BatchDetections:
    """Take the `count` best of all N x K pairs of box and class: no NMS, threshold or clipping."""
    classes = logits.shape[-1]
    scores, pairs = logits.sigmoid().flatten(1).topk(min(count, logits[0].numel()))
    boxes = boxes_xyxy.gather(1, (pairs // classes).unsqueeze(-1).expand(-1, -1, 4))
    return BatchDetections(boxes * scale_wh.repeat(1, 2).unsqueeze(1), scores, pairs % classes)


@fp32_island("geometry")
def best_of_each_query(
    prediction: Predictions, sizes_hw: Int[Tensor, "B 2"], original_hw: Real[Tensor, "B 2"]
) -> BatchDetections:
    """Take every query's best class by softmax, ignoring the last logit, that of no object."""
    scores, labels = prediction.logits.softmax(-1)[..., :-1].max(-1)
    scale = resize_factors(sizes_hw, original_hw, prediction.boxes_xyxy.dtype)
    return BatchDetections(prediction.boxes_xyxy * scale.repeat(1, 2).unsqueeze(1), scores, labels)


@fp32_island("geometry")
def clip_to_images(found: BatchDetections, original_hw: Real[Tensor, "B 2"]) -> BatchDetections:
    """Clip boxes to their images.

    Empty ones score 0, which gives the COCO AP of detectron2, where they are dropped.
    """
    boxes = clip(found.boxes_xyxy, original_hw.to(found.boxes_xyxy.dtype).unsqueeze(1))
    return replace(found, boxes_xyxy=boxes, scores=found.scores * (area(boxes) > 0))


def resize_factors(
    sizes_hw: Int[Tensor, "B 2"], original_hw: Real[Tensor, "B 2"], dtype: torch.dtype
) -> Float[Tensor, "B 2"]:
    """Return original pixels per resized pixel in x and y; rounding makes the two differ."""
    return (original_hw.to(dtype) / sizes_hw.to(dtype)).flip(-1)


def check_at_least(config: object, least: int, *names: str) -> None:
    """Raise `ConfigError`, naming the flag, if a detector's setting is below `least`."""
    for name in names:
        if getattr(config, name) < least:
            wanted = "0 or more" if least == 0 else f"at least {least}"
            raise ConfigError(f"{_flag(name)} must be {wanted}, got {getattr(config, name)}")


def check_split(config: object, whole: str, parts: str | int, meaning: str = "") -> None:
    """Raise `ConfigError` unless one setting splits evenly into another, or into a number of parts."""
    count = getattr(config, parts) if isinstance(parts, str) else parts
    if getattr(config, whole) % count:
        meaning = _flag(parts) if isinstance(parts, str) else meaning
        raise ConfigError(
            f"{_flag(whole)} {getattr(config, whole)} must split evenly into {count} ({meaning})"
        )


def _flag(name: str) -> str:
    return f"--detector.{name.replace('_', '-')}"
