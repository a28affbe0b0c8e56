"""What computes detections: the step that training's evaluation, prediction, export and serving share."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from qdet.detectors.detector import Detector
from qdet.errors import ConfigError
from qdet.inference.description import Precision
from qdet.types import BatchDetections, Predictions

Device = Literal["auto", "cpu", "cuda"] | str
Images = UInt8[Tensor, "B 3 H W"]
"""A batch, padded with zeros at the right and bottom."""
SizesHW = Int[Tensor, "B 2"]
"""Height and width of every image, in pixels."""
Forward = Callable[[Images, SizesHW], tuple[Predictions, ...]]


@runtime_checkable
class Runner(Protocol):
    """A model that is ready to compute."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        ...

    def __call__(self, images: Images, sizes_hw: SizesHW, original_hw: SizesHW) -> BatchDetections:
        """Detect in a batch, in pixels of the original images.

        Args:
            images: Resized, padded with zeros at the right and bottom.
            sizes_hw: Sizes of the resized images without padding.
            original_hw: Sizes before resizing.
        """
        ...


@dataclass(frozen=True)
class DetectorRunner:
    """A PyTorch detector; `forward` runs it in some precision, perhaps through an engine that wraps it."""

    detector: Detector
    forward: Forward
    device: torch.device

    @classmethod
    def of(cls, detector: Detector, device: torch.device, precision: Precision) -> "DetectorRunner":
        """Put the detector on the device in evaluation mode."""
        detector = detector.to(device).eval().requires_grad_(False)

        def forward(images: Tensor, sizes_hw: Tensor) -> tuple[Predictions, ...]:
            with autocast(device, precision):
                return detector(images, sizes_hw)

        return cls(detector, forward, device)

    def __call__(self, images: Images, sizes_hw: SizesHW, original_hw: SizesHW) -> BatchDetections:
        """Detect in a batch."""
        with torch.no_grad():
            last = self.forward(images, sizes_hw)[-1]
            return self.detector.detect(last, sizes_hw, original_hw)


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """Return the context in which a detector computes as it does in training."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def choose_device(wanted: Device = "auto") -> torch.device:
    """Return the device to compute on: with `auto` a GPU if there is one.

    Raises:
        ConfigError: There is no such device.
    """
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"--device {wanted} is not there on this machine; give cpu or auto") from error
    return device
