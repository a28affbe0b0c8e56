"""Prediction heads: their outputs are compared with ground truth, so their last products stay in fp32."""

import math
from collections.abc import Callable, Iterable
from typing import Literal, cast

from jaxtyping import Float, Int
from torch import Tensor, nn

from qdet.layers.mlp import MLP
from qdet.layers.precision import fp32_island
from qdet.layers.reference_points import boxes_from, to_pixels
from qdet.types import Predictions

Scores = Literal["sigmoid", "softmax"]
"""Class logits: independent per class, or a softmax over classes and a last logit for no object."""
PRIOR = 0.01
"""Probability that a fresh class head gives every class of every query (Lin et al., ICCV 2017, 3.3)."""


class Head(nn.Linear):
    """A linear layer that keeps its arithmetic in fp32 under autocast."""

    @fp32_island("head")
    def forward(self, input: Float[Tensor, "*n D"]) -> Float[Tensor, "*n _"]:
        """Return the product."""
        return super().forward(input)


class PerceptronHead(MLP):
    """A perceptron of its input's width whose last product stays in fp32."""

    def __init__(self, dim: int, out: int, layers: int) -> None:
        super().__init__(dim, dim, out, layers)
        self.layers[-1] = Head(dim, out)


class BoxHead(PerceptronHead):
    """The three-layer perceptron that DETR and its kin predict boxes with: [..., D] to [..., 4]."""

    def __init__(self, dim: int, *, layers: int = 3) -> None:
        super().__init__(dim, 4, layers)

    def start_at_zero(self, size_bias: float = 0.0) -> None:
        """Zero the last layer, except `size_bias` for width and height: boxes start at their anchors."""
        last = cast(Head, self.layers[-1])
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        nn.init.constant_(last.bias[2:], size_bias)


def sigmoid_class_head(dim: int, classes: int) -> Head:
    """Make a class head whose initial scores are all `PRIOR`."""
    head = Head(dim, classes)
    start_at_prior(head)
    return head


def start_at_prior(head: nn.Linear) -> None:
    """Set the bias of a class head to the logit of `PRIOR`."""
    nn.init.constant_(head.bias, math.log(PRIOR / (1 - PRIOR)))


class DetectionHead(nn.Module):
    """A linear layer for classes, a perceptron for boxes; it starts at score `PRIOR` and zero offsets."""

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.class_head = sigmoid_class_head(dim, classes)
        self.box_head = BoxHead(dim)
        self.box_head.start_at_zero()

    def forward(
        self, x: Float[Tensor, "B N D"], reference: Float[Tensor, "B N _"]
    ) -> tuple[Float[Tensor, "B N K"], Float[Tensor, "B N 4"]]:
        """Return logits, and boxes (x, y, w, h) in normalized coordinates like the reference."""
        return self.class_head(x), boxes_from(self.box_head(x), reference)


def predict_layers(
    outputs: Iterable[Float[Tensor, "B N D"]],
    class_head: nn.Module,
    predict_boxes: Callable[[Tensor], Tensor],
    sizes_hw: Int[Tensor, "B 2"],
) -> tuple[Predictions, ...]:
    """Predict from every layer's queries with heads that all layers share.

    `predict_boxes` maps queries [B, N, D] to boxes [B, N, 4], cxcywh in normalized coordinates.
    """
    predictions = []
    for x in outputs:
        boxes = to_pixels(predict_boxes(x), sizes_hw)
        predictions.append(Predictions(class_head(x), boxes))
    return tuple(predictions)
