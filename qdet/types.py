"""The data passed between modules: batches of padded images, objects, predictions, detections.

B images   T objects of all images together   N queries   P extra queries   K classes
H, W padded height and width
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
class Noise:
    """Random numbers that the objects of a batch are noised with, packed image by image.

    An image with n noised objects and r repetitions owns the next r * n rows: all objects of its first
    repetition, then those of the second.
    """

    numbers: Float[Tensor, "R 10"]
    """Uniform in [0, 1): whether the label changes, into which, sizes and signs of four box coordinates."""
    objects: tuple[tuple[int, ...], ...]
    """The noised objects of each image, by their place among its objects, in rising order."""
    repetitions: tuple[int, ...]
    """Copies of these objects in each image."""

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "Noise":
        """Copy the numbers to `device`."""
        return _map_tensors(self, lambda t: t.to(device, non_blocking=non_blocking))


@dataclass(frozen=True)
class ExtraQueries:
    """Queries that only training has, ahead of a detector's own: labels and boxes to start from."""

    labels: Int[Tensor, "B P"]
    """Class indices in [0, K)."""
    boxes: Float[Tensor, "B P 4"]
    """cxcywh in normalized coordinates; sizes may be negative. All .5 where nothing is filled in."""
    groups: Int[Tensor, "B P"]
    """Queries see those of their own group and the detector's own; -1 is seen by none."""
    filled: Bool[Tensor, "B P"]
    """False for slots that an image leaves empty."""


@dataclass(frozen=True)
class Reconstruction:
    """What the extra queries of a batch should predict, for the loss alone."""

    queries: Int[Tensor, " m"]
    """Queries that should find an object: image * P + slot."""
    objects: Int[Tensor, " m"]
    """Which object, as a row of `Targets`."""
    counted: Bool[Tensor, "B P"]
    """Queries whose classes count; those that should find no object are background."""
    groups: Int[Tensor, " B"]
    """Groups of each image, at least 1; its sums are divided by them."""
    dropped: int
    """Objects that were left out, because their image has too many."""


@dataclass(frozen=True)
class Substitute:
    """An image that stands in for a planned one, which could not be read."""

    planned_id: int
    image_id: int
    reason: str
    """The shard, the sample, and what is wrong with it."""


@dataclass(frozen=True)
class Batch:
    """Images padded at the right and bottom to one size, with their metadata."""

    images: UInt8[Tensor, "B 3 H W"]
    """RGB bytes; padding is zero. Detectors normalise on their own device and re-zero the padding."""
    sizes_hw: Int[Tensor, "B 2"]
    """Height and width of each resized image without padding."""
    original_hw: Int[Tensor, "B 2"]
    """Height and width of each image file; detections are given in its pixels."""
    image_ids: Int[Tensor, " B"]
    """The dataset's own image ids (int64)."""
    valid: Bool[Tensor, " B"]
    """False for padding images of the last evaluation batch, which must not be counted."""
    targets: Targets
    substitutes: tuple[Substitute, ...] = ()
    """Images here that were not planned."""
    noise: Noise | None = None
    """For detectors that are trained to remove it."""

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
    """Sizes of the images of a padded batch."""

    sizes_hw: Int[Tensor, "B 2"]
    """Height and width of each image without padding."""
    padded_hw: tuple[int, int]
    """Height and width that all of them are padded to."""


@dataclass(frozen=True)
class Predictions:
    """One decoder stage's predictions for all queries."""

    logits: Float[Tensor, "B N K"]
    """Class logits before sigmoid or softmax."""
    boxes_xyxy: Float[Tensor, "B N 4"]
    """Corners in pixels of the resized, unpadded image; always fp32 or wider."""


@dataclass(frozen=True)
class Proposals(Predictions):
    """An encoder's predictions for all tokens, before any decoder stage; matched with objects first."""

    class_agnostic: bool = False
    """Whether only the first class logit counts, as that of an object of any class."""


@dataclass(frozen=True)
class Reconstructions(Predictions):
    """One decoder stage's predictions for the extra queries, whose objects are known without matching."""


@dataclass(frozen=True)
class Branches(Predictions):
    """One decoder stage's predictions for queries that are learned for training alone, and matched apart."""

    count: int = 1
    """Branches of equal size, one after the other; each looks for all objects."""
    repeats: int = 1
    """How many of a branch's queries should find the same object."""
    weight: float = 1.0
    """Factor of the loss of each branch."""
    own_weight: float = 1.0
    """Factor of the loss of the detector's own queries, decoded beside them."""


@dataclass(frozen=True)
class BatchDetections:
    """Scored boxes in pixels of the original image files, `n` per image, in any order."""

    boxes_xyxy: Float[Tensor, "B n 4"]
    scores: Float[Tensor, "B n"]
    labels: Int[Tensor, "B n"]


Moving = TypeVar("Moving", bound=Targets | Noise | Batch)


def _map_tensors(of: Moving, move: Callable[[Tensor], Tensor]) -> Moving:
    changed = {}
    for f in fields(of):
        value = getattr(of, f.name)
        if isinstance(value, Targets | Noise):
            value = _map_tensors(value, move)
        elif isinstance(value, Tensor):
            value = move(value)
        changed[f.name] = value
    return type(of)(**changed)
