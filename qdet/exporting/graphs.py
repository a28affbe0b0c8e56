"""Models as graphs of plain operations: what each form computes, and its trace by torch.export.

B images   H, W height and width   n detections   N queries   K classes
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jaxtyping
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx.experimental import _config as symbolic_shapes

from qdet.data.augment import AugmentConfig
from qdet.detectors.detector import Detector
from qdet.errors import ExportError
from qdet.exporting.sizes import evaluation_size, padded_size
from qdet.inference.runners.graphs import INPUTS, MIN_SIDE, Form
from qdet.layers.pixels import standardize
from qdet.types import BatchDetections

Found = tuple[Float[Tensor, "B n 4"], Float[Tensor, "B n"], Int[Tensor, "B n"]]

EXAMPLE_HW = (288, 352)
"""Height and width of the images that graphs are traced with. They stay dynamic, but a map must have more
than one window of a Swin on each side, since tracing takes a 1 for a constant."""


class BatchGraph(nn.Module):
    """Padded bytes to detections in pixels of the original images."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(
        self, images: UInt8[Tensor, "B 3 H W"], sizes_hw: Int[Tensor, "B 2"], original_hw: Int[Tensor, "B 2"]
    ) -> Found:
        """Return boxes, scores and labels."""
        return _detect(self.detector, images, sizes_hw, original_hw)


class ImageGraph(nn.Module):
    """Bytes of any size to detections in their pixels; all images of a batch have that size.

    Resized colours are not rounded to bytes as `qdet.data.image.resize` rounds them.
    """

    def __init__(self, detector: Detector, augment: AugmentConfig) -> None:
        super().__init__()
        self.detector = detector
        self.augment = augment

    def forward(self, images: UInt8[Tensor, "B 3 H W"]) -> Found:
        """Return boxes, scores and labels."""
        original_hw = torch.tensor(images.shape[-2:], dtype=torch.int64)
        size_hw = evaluation_size(original_hw, self.augment)
        height, width = _known_sides(size_hw, 1)
        bottom, right = _known_sides(padded_size(size_hw, self.augment.pad_multiple, MIN_SIDE), MIN_SIDE)
        x = resize(images.float(), (height, width), antialias=self.augment.filter != "opencv")
        x = F.pad(standardize(x), (0, right - width, 0, bottom - height))
        sizes_hw, original_hw = (hw.expand(images.shape[0], 2) for hw in (size_hw, original_hw))
        return _detect(self.detector, x, sizes_hw, original_hw)


class RawGraph(nn.Module):
    """Normalized floats to the predictions of the last decoder stage."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(
        self, images: Float[Tensor, "B 3 H W"], sizes_hw: Int[Tensor, "B 2"]
    ) -> tuple[Float[Tensor, "B N K"], Float[Tensor, "B N 4"]]:
        """Return class logits, and boxes in pixels of the resized images."""
        last = self.detector(images, sizes_hw)[-1]
        return last.logits, last.boxes_xyxy


@dataclass(frozen=True)
class Graph:
    """A module of one form, traced once it is needed."""

    module: nn.Module
    form: Form

    @classmethod
    def of(cls, detector: Detector, augment: AugmentConfig, form: Form) -> "Graph":
        """Put a detector, on the CPU and in evaluation mode, into a graph."""
        if form == "image":
            return cls(ImageGraph(detector, augment).eval(), form)
        return cls((BatchGraph if form == "batch" else RawGraph)(detector).eval(), form)

    @cached_property
    def program(self) -> ExportedProgram:
        """The module traced for all batch sizes, heights and widths.

        Raises:
            ExportError: It has operations that torch.export cannot trace.
        """
        batch, least = Dim("batch"), 1 if self.form == "image" else MIN_SIDE
        height, width = Dim("height", min=least), Dim("width", min=least)
        shapes: dict[str, Any] = {name: {0: batch} for name in INPUTS[self.form]}
        shapes["images"] |= {2: height, 3: width}
        inputs = make_inputs(self.form, batch=2, padded_hw=EXAMPLE_HW, seed=0)
        try:
            with torch.no_grad(), _general_shapes():
                traced = torch.export.export(
                    self.module,
                    inputs,
                    dynamic_shapes=shapes,
                    prefer_deferred_runtime_asserts_over_guards=True,
                )
        except Exception as error:  # of many kinds
            raise ExportError(
                f"torch.export cannot trace this model: {type(error).__name__}: {error}"
            ) from error
        _drop_assertions(traced)
        _drop_unread_parameters(traced)
        return traced


def _drop_assertions(program: ExportedProgram) -> None:
    """Remove what tracing assumed of sizes, such as that a batch has more than one image.

    `qdet.exporting.parity` tries whether results depend on it.
    """
    graph = program.graph_module.graph
    for node in list(graph.nodes):
        if node.target is torch.ops.aten._assert_scalar.default:
            graph.erase_node(node)
    graph.eliminate_dead_code()
    program.graph_module.recompile()


def _drop_unread_parameters(program: ExportedProgram) -> None:
    """Remove the weights of training alone, such as those of noised and further queries."""
    graph, signature = program.graph_module.graph, program.graph_signature
    unread = {node.name: node for node in graph.find_nodes(op="placeholder") if not node.users}
    kept = []
    for spec in signature.input_specs:
        if spec.kind is InputKind.PARAMETER and spec.target and spec.arg.name in unread:
            graph.erase_node(unread[spec.arg.name])
            del program.state_dict[spec.target]
        else:
            kept.append(spec)
    signature.input_specs = kept
    program.graph_module.recompile()


def _known_sides(size_hw: Int[Tensor, " 2"], least: int) -> tuple[int, int]:
    """Return height and width as numbers that a graph computes.

    Tracing is five times as fast as with expressions of the image's own sides.
    """
    height, width = size_hw.tolist()
    torch._check(height >= least)
    torch._check(width >= least)
    return height, width


def resize(
    images: Float[Tensor, "B 3 H W"], size_hw: tuple[int, int], *, antialias: bool
) -> Float[Tensor, "B 3 h w"]:
    """Resize bilinearly; `antialias` averages where an image shrinks, as Pillow does."""
    return F.interpolate(images, size=size_hw, mode="bilinear", antialias=antialias, align_corners=False)


def make_inputs(form: Form, *, batch: int, padded_hw: tuple[int, int], seed: int) -> tuple[Tensor, ...]:
    """Make the inputs of a graph: random patterns, all but the first image smaller than the batch."""
    generator = torch.Generator().manual_seed(seed)
    height, width = padded_hw
    coarse = torch.rand((batch, 3, 9, 11), generator=generator)
    smooth = F.interpolate(coarse, size=padded_hw, mode="bilinear")
    noise = torch.rand((batch, 3, height, width), generator=generator) - 0.5
    images = (255 * smooth + 60 * noise).clamp(0, 255).byte()
    if form == "image":
        return (images,)
    shares = 0.55 + 0.45 * torch.rand((batch, 2), generator=generator)
    shares[0] = 1
    sizes_hw = (shares * torch.tensor(padded_hw)).long()
    for image, (h, w) in zip(images, sizes_hw.tolist(), strict=True):
        image[:, h:], image[:, :, w:] = 0, 0
    if form == "raw":
        return standardize(images.float()), sizes_hw
    return images, sizes_hw, (sizes_hw * 2.6).long()


@contextmanager
def _general_shapes() -> Iterator[None]:
    """Trace without taking a size that may be 1 for one that is not, and without torch's own log.

    Symbols are no integers to a checker of types, where one is switched on.
    """
    level, unchecked = logging.root.manager.disable, jaxtyping.config.jaxtyping_disable
    logging.disable(logging.WARNING)
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        with symbolic_shapes.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
            yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", unchecked)
        logging.disable(level)


def _detect(detector: Detector, images: Tensor, sizes_hw: Tensor, original_hw: Tensor) -> Found:
    last = detector(images, sizes_hw)[-1]
    found: BatchDetections = detector.detect(last, sizes_hw, original_hw)
    return found.boxes_xyxy, found.scores, found.labels
