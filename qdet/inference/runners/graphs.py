"""The graphs that models are exported as: their inputs and outputs, and a runner of each form.

B images   H, W height and width   n detections   N queries   K classes
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from qdet.detectors.detector import Detector, resize_factors
from qdet.errors import CheckpointError
from qdet.inference.description import Description
from qdet.inference.runner import Images, SizesHW
from qdet.layers.pixels import normalize
from qdet.storage.parsing import parse_json
from qdet.types import BatchDetections, Predictions

Form = Literal["batch", "image", "raw"]
"""What a graph does itself.

batch   Normalizes and scores: resized and padded bytes to detections in pixels of the original images.
image   Resizes and pads as well: bytes of any size to detections in their pixels.
raw     Neither: normalized floats to the logits and boxes of the last decoder stage.
"""

INPUTS: dict[Form, tuple[str, ...]] = {
    "batch": ("images", "sizes_hw", "original_hw"),
    "image": ("images",),
    "raw": ("images", "sizes_hw"),
}
OUTPUTS: dict[Form, tuple[str, ...]] = {
    "batch": ("boxes_xyxy", "scores", "labels"),
    "image": ("boxes_xyxy", "scores", "labels"),
    "raw": ("logits", "boxes_xyxy"),
}
MIN_SIDE = 65
"""Pixels of the shortest side that a graph of the form `batch` or `raw` takes."""
METADATA = "qdet"
"""Key of a file's metadata that holds what `pack` returns."""

Session = Callable[..., tuple[Tensor, ...]]
"""Runs a graph: tensors in the order of `INPUTS` to tensors in the order of `OUTPUTS`."""


def pack(description: Description, form: Form) -> str:
    """Return, as JSON, what a file says of the model in it."""
    return json.dumps(parse_json(description.to_json()) | {"graph": form})


def unpack(text: str | bytes, source: str) -> tuple[Description, Form]:
    """Read what `pack` returned.

    Raises:
        CheckpointError: It is damaged; the message names `source`.
    """
    description = Description.from_json(text, source=source)
    form = parse_json(text).get("graph")
    if form not in get_args(Form):
        raise CheckpointError(f"{source} holds a graph of the unknown form {form!r}: export it again")
    return description, form


@dataclass(frozen=True)
class GraphRunner:
    """An exported graph behind the interface of a detector."""

    session: Session
    form: Form
    detector: Detector
    """The described detector without weights, which scores what a `raw` graph predicts."""
    device: torch.device
    """Where it takes tensors from."""

    @classmethod
    def of(
        cls, session: Session, form: Form, description: Description, device: torch.device
    ) -> "GraphRunner":
        """Put a session behind the interface."""
        with torch.device("meta"):
            detector = description.detector.build(len(description.classes)).eval()
        return cls(session, form, detector, device)

    def __call__(self, images: Images, sizes_hw: SizesHW, original_hw: SizesHW) -> BatchDetections:
        """Detect in a batch."""
        if self.form == "batch":
            return BatchDetections(*self.session(enlarge(images), sizes_hw, original_hw))
        if self.form == "image":
            return self._detect_one_by_one(images, sizes_hw, original_hw)
        images = enlarge(normalize(images, sizes_hw))
        return self.detector.detect(Predictions(*self.session(images, sizes_hw)), sizes_hw, original_hw)

    def _detect_one_by_one(self, images: Tensor, sizes_hw: Tensor, original_hw: Tensor) -> BatchDetections:
        """Run a graph that resizes by itself on each image without its padding."""
        parts = [
            self.session(image[None, :, :height, :width])
            for image, (height, width) in zip(images, sizes_hw.tolist(), strict=True)
        ]
        boxes, scores, labels = (torch.cat(part) for part in zip(*parts, strict=True))
        scale = resize_factors(sizes_hw, original_hw, boxes.dtype)
        return BatchDetections(boxes * scale.repeat(1, 2).unsqueeze(1), scores, labels)


def enlarge(images: Tensor) -> Tensor:
    """Pad images [B, 3, H, W] with zeros until no side is too short for a graph."""
    height, width = images.shape[-2:]
    if min(height, width) >= MIN_SIDE:
        return images
    missing = (0, max(MIN_SIDE - width, 0), 0, max(MIN_SIDE - height, 0))
    return torch.nn.functional.pad(images, missing)
