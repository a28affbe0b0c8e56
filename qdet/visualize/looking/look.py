"""Looking into a detector: one forward pass, recorded, for the images of one batch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from qdet.detectors.detector import Detector
from qdet.errors import ConfigError
from qdet.types import Predictions
from qdet.visualize.looking.attention import AttentionMaps, attention_of, watch_attention
from qdet.visualize.looking.frame import Frame
from qdet.visualize.looking.gaussians import Gaussians, gaussians_of, watch_gaussians
from qdet.visualize.looking.points import SampledPoints, points_of, watch_points
from qdet.visualize.looking.recording import Watch, recording
from qdet.visualize.looking.regions import Regions, regions_of, watch_regions
from qdet.visualize.looking.stages import StageBoxes, stage_boxes

What = Literal["points", "gaussians", "regions", "attention", "stages"]
"""What can be seen of a detector; the first that it has is its best."""
Seen = SampledPoints | Gaussians | Regions | AttentionMaps


@dataclass(frozen=True)
class Look:
    """What a detector computed for one image."""

    what: What
    boxes: StageBoxes
    """What every stage predicts."""
    seen: tuple[Seen, ...]
    """What every stage looks at; empty for `stages`, which the boxes already show."""
    start_xyxy: Float[np.ndarray, "N 4"] | None = None
    """For `stages`, the boxes before the first one in pixels of the original image, where there are such."""


@dataclass(frozen=True)
class _Kind:
    watch: Callable[[nn.Module], list[Watch]]
    take: Callable[[Sequence[Any], Frame], tuple[Seen, ...]]


_KINDS: dict[What, _Kind] = {
    "points": _Kind(watch_points, points_of),
    "gaussians": _Kind(watch_gaussians, gaussians_of),
    "regions": _Kind(watch_regions, regions_of),
    "attention": _Kind(watch_attention, attention_of),
}


def available(detector: Detector) -> tuple[What, ...]:
    """Return what can be seen of a detector, the most telling first; `stages` last, which all have."""
    return (*(what for what, kind in _KINDS.items() if kind.watch(detector)), "stages")


def choose(detector: Detector, what: What | None) -> What:
    """Return `what`, or the most telling where it is None.

    Raises:
        ConfigError: The detector does not have it; the message lists what it has.
    """
    has = available(detector)
    if what is not None and what not in has:
        name = type(detector).__name__
        raise ConfigError(f"--what {what}: {name} has none; it has {' and '.join(has)}")
    return what or has[0]


def look(
    detector: Detector,
    images: UInt8[Tensor, "B 3 H W"] | Float[Tensor, "B 3 H W"],
    sizes_hw: Int[Tensor, "B 2"],
    original_hw: Int[Tensor, "B 2"],
    *,
    what: What | None = None,
    forward: Callable[[Tensor, Tensor], tuple[Predictions, ...]] | None = None,
) -> list[Look]:
    """Run a batch through a detector in evaluation mode, and return what it looked at in each image.

    Args:
        detector: Its predictions are those of a pass that is not recorded, bit for bit.
        images: Resized, padded with zeros at the right and bottom.
        sizes_hw: Sizes of the resized images without padding.
        original_hw: Sizes before resizing; all coordinates are returned in those.
        what: What to record; by default the most telling that the detector has.
        forward: Runs the detector, such as in bf16; by default the detector itself.

    Raises:
        ConfigError: The detector has nothing of that kind.
    """
    chosen, (*has, _) = choose(detector, what), available(detector)
    kind = _KINDS[has[0] if chosen == "stages" else chosen] if has else None
    with torch.no_grad(), recording(kind.watch(detector) if kind else []) as captured:
        predictions = (forward or detector)(images, sizes_hw)
    looks = []
    for frame in _frames(images, sizes_hw, original_hw):
        boxes = stage_boxes(detector, predictions, frame)
        seen = kind.take(captured, frame) if kind else ()
        start, seen = (_start(seen), ()) if chosen == "stages" else (None, seen)
        looks.append(Look(chosen, boxes, seen, start))
    return looks


def _start(seen: Sequence[Seen]) -> Float[np.ndarray, "N 4"] | None:
    """Return the boxes that the first stage reads, where it reads boxes."""
    first = seen[0] if seen else None
    if isinstance(first, Regions):
        return first.boxes_xyxy
    if isinstance(first, SampledPoints) and not first.around_points:
        return first.around_xyxy
    return None


def _frames(images: Tensor, sizes_hw: Tensor, original_hw: Tensor) -> list[Frame]:
    padded = (images.shape[-2], images.shape[-1])
    pairs = zip(sizes_hw.tolist(), original_hw.tolist(), strict=True)
    return [Frame(row, tuple(size), tuple(original), padded) for row, (size, original) in enumerate(pairs)]
