"""Attention maps: how much each query attends to each cell of the feature map.

DETR (Carion et al., ECCV 2020), Conditional DETR, DAB-DETR, Anchor DETR and SMCA. Fused kernels keep no
weights; the layers compute them again from the same queries and keys.

    B images   N queries   M heads   K cells of all maps   L maps   h, w map
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from qdet.detectors import AnchorDETR
from qdet.layers.transformer.layers import DecoderLayer
from qdet.visualize.looking.frame import Frame, as_array
from qdet.visualize.looking.recording import Watch

Shapes = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class AttentionMaps:
    """The attention of one stage to one image."""

    maps: tuple[Float[np.ndarray, "N M _h _w"], ...]
    """Weights of the cells of each map, padding included; all maps together add up to 1."""
    strides: tuple[int, ...]
    """Pixels of the resized image per cell of each map."""
    size_hw: tuple[int, int]
    """Of the resized image, without padding."""

    def on_image(self, query: int) -> Float[np.ndarray, "H W"]:
        """Spread a query's attention, the mean over its heads, over the pixels of the resized image.

        A cell's weight lies at its centre and is interpolated between centres.
        """
        total = np.zeros(self.size_hw)
        for cells, stride in zip(self.maps, self.strides, strict=True):
            mean = torch.from_numpy(cells[query].mean(0))[None, None] / stride**2
            spread = F.interpolate(mean, scale_factor=float(stride), mode="bilinear", align_corners=False)
            height, width = self.size_hw
            total += spread[0, 0, :height, :width].numpy()
        return total


def watch_attention(detector: nn.Module) -> list[Watch]:
    """Return what records the maps' shapes, then each stage's weights; nothing where attention has none."""
    layers = [m.cross_attention.update for m in detector.modules() if isinstance(m, DecoderLayer)]
    weighing = [layer for layer in layers if hasattr(layer, "weights")]
    if not weighing:
        return []
    return [_watch_shapes(detector), *(Watch(layer, _capture_weights(layer)) for layer in weighing)]


def attention_of(captured: Sequence[Any], frame: Frame) -> tuple[AttentionMaps, ...]:
    """Take one image's maps out of what was recorded of its batch."""
    shapes, *stages = captured
    strides = tuple(frame.stride_of(shape) for shape in shapes)
    return tuple(
        AttentionMaps(_split(as_array(weights[frame.row]), shapes), strides, frame.size_hw)
        for weights in stages
    )


def _capture_weights(layer: nn.Module) -> Any:
    def capture(inputs: tuple[Any, ...], _: Any) -> Float[Tensor, "B M N K"]:
        return layer.weights(*inputs)  # type: ignore[operator]

    return capture


def _watch_shapes(detector: nn.Module) -> Watch:
    """Watch what knows the shapes of the maps that queries attend to."""
    if isinstance(detector, AnchorDETR):
        levels = detector.config.levels
        return Watch(detector.neck[-1], lambda _, output: (tuple(output.shape[-2:]),) * levels)
    decoder: Any = detector.get_submodule("decoder")
    return Watch(decoder, lambda inputs, _: _shapes_of(inputs[0]))


def _shapes_of(memory: Any) -> Shapes:
    """Shapes of a `Memory` of one map or of SMCA's `ScaleTokens`."""
    return memory.shapes_hw if hasattr(memory, "shapes_hw") else (memory.shape_hw,)


def _split(weights: Float[np.ndarray, "M N K"], shapes: Shapes) -> tuple[Float[np.ndarray, "N M _ _"], ...]:
    ends = np.cumsum([height * width for height, width in shapes])[:-1]
    parts = np.split(weights.swapaxes(0, 1), ends, axis=-1)
    return tuple(part.reshape(*part.shape[:2], *shape) for part, shape in zip(parts, shapes, strict=True))
