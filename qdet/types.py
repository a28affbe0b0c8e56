"""What flows between the parts: a batch of padded images, its objects, a stage's predictions, detections.

B images   T objects of all images together   N queries   K classes   H, W padded height and width
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TypeVar

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor


@dataclass(frozen=True)
class Targets:
    """The objects of a batch, packed: image i owns the next `counts[i]` rows. No padding, no dicts.

    `counts` lives on the host, so that counting objects needs no device synchronization.
    """

    boxes_xyxy: Float[Tensor, "T 4"]
    """Corners in pixels of the resized, unpadded image."""
    labels: Int[Tensor, " T"]
    """Contiguous class indices in [0, K)."""
    counts: tuple[int, ...]
    """Objects per image, B numbers that add up to T."""

    def per_image(self) -> list[tuple[Float[Tensor, "t 4"], Int[Tensor, " t"]]]:
        """Split into (boxes, labels) of each image."""
        return list(zip(self.boxes_xyxy.split(self.counts), self.labels.split(self.counts), strict=True))

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "Targets":
        """Copy the tensors to `device`."""
        return _map_tensors(self, lambda t: t.to(device, non_blocking=non_blocking))


@dataclass(frozen=True)
class Substitute:
    """An image that stands in for a planned one, which could not be read."""

    planned_id: int
    image_id: int
    reason: str
    """The shard, the sample, and what is wrong with it."""


@dataclass(frozen=True)
class Batch:
    """Images padded at the right and bottom to one size, with what is known of each."""

    images: UInt8[Tensor, "B 3 H W"]
    """RGB bytes; padding is zero. Detectors normalise on their own device and re-zero the padding."""
    sizes_hw: Int[Tensor, "B 2"]
    """Height and width of each resized image without padding: what the network sees of it."""
    original_hw: Int[Tensor, "B 2"]
    """Height and width of each image file; detections are given in its pixels."""
    image_ids: Int[Tensor, " B"]
    """The dataset's own image ids (int64)."""
    valid: Bool[Tensor, " B"]
    """False where an image only fills up the last evaluation batch and must not be counted."""
    targets: Targets
    substitutes: tuple[Substitute, ...] = ()
    """Images here that were not planned."""

    def __len__(self) -> int:
        return self.images.shape[0]

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "Batch":
        """Copy every tensor to `device`."""
        return _map_tensors(self, lambda t: t.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "Batch":
        """Copy every tensor to page-locked memory, so that the copy to a GPU can overlap compute."""
        return _map_tensors(self, lambda t: t.pin_memory())


@dataclass(frozen=True)
class PaddedSizes:
    """How large the images of a padded batch are."""

    sizes_hw: Int[Tensor, "B 2"]
    """Height and width of each image without padding."""
    padded_hw: tuple[int, int]
    """Height and width that all of them are padded to."""


@dataclass(frozen=True)
class Predictions:
    """What one decoder stage says of every query."""

    logits: Float[Tensor, "B N K"]
    """Class logits before sigmoid or softmax."""
    boxes_xyxy: Float[Tensor, "B N 4"]
    """Corners in pixels of the resized, unpadded image; always fp32 or wider."""


@dataclass(frozen=True)
class Proposals(Predictions):
    """What an encoder says of every token, before any decoder stage: a first set to match with objects."""

    class_agnostic: bool = False
    """Only the first class logit counts, and stands for an object of any class."""


@dataclass(frozen=True)
class Detections:
    """Scored boxes in pixels of the original image files, `n` per image, best first is not promised."""

    boxes_xyxy: Float[Tensor, "B n 4"]
    scores: Float[Tensor, "B n"]
    labels: Int[Tensor, "B n"]


Moving = TypeVar("Moving", Targets, Batch)


def _map_tensors(of: Moving, move: Callable[[Tensor], Tensor]) -> Moving:
    changed = {}
    for f in fields(of):
        value = getattr(of, f.name)
        if isinstance(value, Targets):
            value = _map_tensors(value, move)
        elif isinstance(value, Tensor):
            value = move(value)
        changed[f.name] = value
    return type(of)(**changed)
