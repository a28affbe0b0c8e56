"""Sparse R-CNN: a small set of learned boxes, each read by RoIAlign and refined by filters of its own.

Sun, Zhang, Jiang et al.: Sparse R-CNN, End-to-End Object Detection with Learnable Proposals, CVPR 2021,
https://arxiv.org/abs/2011.12450. Where the paper and the authors' code (PeizeSun/SparseR-CNN) differ, this
is the code.

    B images   N queries, the paper's proposals   K classes   D width
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from jaxtyping import Float, Int, Real
from torch import Tensor, nn

from qdet.backbones import BackboneConfig, ResNetConfig
from qdet.detectors.detector import Detector, check_at_least, check_split, clip_to_images
from qdet.layers.attention import MultiheadAttention
from qdet.layers.box_deltas import apply_deltas
from qdet.layers.dynamic_conv import DynamicConv
from qdet.layers.feature_pyramid import FPN
from qdet.layers.heads import Head, start_at_prior
from qdet.layers.learned_queries import LearnedQueries
from qdet.layers.mlp import FeedForward, tower
from qdet.layers.reference_points import to_pixels
from qdet.layers.roi_align import Pyramid, roi_align
from qdet.layers.transformer import Residual, run, xavier_matrices
from qdet.layers.xyzr import whole_boxes
from qdet.types import Detections, PaddedSizes, Predictions


@dataclass(frozen=True, kw_only=True)
class SparseRCNNConfig:
    """Sparse R-CNN; the defaults are the paper's ResNet-50 with 100 proposals."""

    backbone: BackboneConfig = field(default_factory=ResNetConfig)
    queries: int = 100
    """Objects that an image can have at most: proposals in the paper, whose larger models use 300."""
    stages: int = 6
    """Stages of refinement, each with weights of its own."""
    width: int = 256
    """Features of a query and channels of the feature pyramid."""
    heads: int = 8
    """Heads of the attention between queries."""
    ffn: int = 2048
    """Hidden features of the feed-forward blocks."""
    dropout: float = 0.0
    """Share of attention weights, hidden features and updates that training drops."""
    roi_size: int = 7
    """Cells along each side of the region that a query reads."""
    filters: int = 64
    """Features between the two convolutions that a query writes."""
    class_layers: int = 1
    """Linear layers before the class head's last."""
    box_layers: int = 3
    """Linear layers before the box head's last."""

    def __post_init__(self) -> None:
        """Reject what could never be built, in the words of the command line."""
        check_at_least(self, 1, "queries", "stages", "heads", "ffn", "roi_size", "filters")
        check_at_least(self, 0, "class_layers", "box_layers")
        check_split(self, "width", "heads")

    def build(self, classes: int) -> "SparseRCNN":
        """Make the detector with fresh weights; pre-trained ones are the caller's to load."""
        return SparseRCNN(self, self.backbone.build(), classes)

    def demo(self) -> "SparseRCNNConfig":
        """A detector small enough to learn 128-pixel images on two CPU cores."""
        return replace(
            self,
            backbone=self.backbone.demo(),
            queries=30,
            stages=3,
            width=64,
            heads=4,
            ffn=256,
            roi_size=5,
            filters=16,
            box_layers=1,
        )


class SparseRCNN(Detector):
    """A backbone, a feature pyramid, and stages that refine learned boxes and features."""

    def __init__(self, config: SparseRCNNConfig, backbone: nn.Module, classes: int) -> None:
        super().__init__()
        self.config = config
        self.backbone = backbone
        self.detections = config.queries
        self.neck = FPN(backbone.channels, config.width)  # type: ignore[arg-type]
        self.strides: tuple[int, ...] = backbone.strides  # type: ignore[assignment]
        self.decoder = Decoder(config, classes)

    def decode(
        self, features: Sequence[Float[Tensor, "B _ _ _"]], sizes: PaddedSizes
    ) -> tuple[Predictions, ...]:
        """Predict from the backbone's feature maps, finest first."""
        pyramid = Pyramid.of(self.neck(features), self.strides)
        return self.decoder(pyramid, sizes.sizes_hw, recompute=self.recomputes)

    def detect(
        self, prediction: Predictions, sizes_hw: Int[Tensor, "B 2"], original_hw: Real[Tensor, "B 2"]
    ) -> Detections:
        """Take the best pairs of query and class and cut their boxes at the border, as detectron2 does."""
        return clip_to_images(super().detect(prediction, sizes_hw, original_hw), original_hw)


class Decoder(nn.Module):
    """Learned boxes and features, the same for every image, refined stage by stage.

    A stage's boxes are detached before the next reads them: gradients pass between stages by features alone.
    """

    def __init__(self, config: SparseRCNNConfig, classes: int) -> None:
        super().__init__()
        self.content = LearnedQueries(config.queries, config.width, normalize=False)
        self.first_boxes_cxcywh = LearnedQueries(config.queries, 4, normalize=False)
        with torch.no_grad():
            self.first_boxes_cxcywh.weight.copy_(whole_boxes(config.queries))
        self.stages = nn.ModuleList(Stage(config, classes) for _ in range(config.stages))

    def forward(
        self, pyramid: Pyramid, sizes_hw: Int[Tensor, "B 2"], *, recompute: bool = False
    ) -> tuple[Predictions, ...]:
        """Return what each stage predicts; `recompute` trades its activations for a second forward pass."""
        content = self.content(len(sizes_hw))
        boxes = to_pixels(self.first_boxes_cxcywh(len(sizes_hw)), sizes_hw)
        predictions = []
        for stage in self.stages:
            content, logits, boxes = run(stage, content, boxes, pyramid, recompute=recompute)
            predictions.append(Predictions(logits, boxes))
            boxes = boxes.detach()
        return tuple(predictions)


class Stage(nn.Module):
    """Attend to the other queries, read a region through filters of one's own, and predict."""

    def __init__(self, config: SparseRCNNConfig, classes: int) -> None:
        super().__init__()
        width, dropout = config.width, config.dropout
        self.read_regions = partial(roi_align, size=config.roi_size)
        attention = MultiheadAttention(width, heads=config.heads, dropout=dropout)
        interaction = DynamicConv(width, cells=config.roi_size**2, filters=config.filters)
        ffn = FeedForward(width, config.ffn, dropout=dropout)
        self.attention = Residual(attention, width, dropout=dropout)
        self.interaction = Residual(interaction, width, dropout=dropout)
        self.ffn = Residual(ffn, width, dropout=dropout)
        self.class_tower = tower(width, config.class_layers, bias=False)
        self.box_tower = tower(width, config.box_layers, bias=False)
        self.class_head = Head(width, classes)
        self.box_head = Head(width, 4)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise as the authors' code does, which does not start deltas at zero.

        It finds the class head's bias by its length; here it is that of the class head, whatever the sizes.
        """
        xavier_matrices(self)
        start_at_prior(self.class_head)

    def forward(
        self, content: Float[Tensor, "B N D"], boxes_xyxy: Float[Tensor, "B N 4"], pyramid: Pyramid
    ) -> tuple[Float[Tensor, "B N D"], Float[Tensor, "B N K"], Float[Tensor, "B N 4"]]:
        """Return the new content, its class logits and the moved boxes."""
        content = self.attention(content, content, content)
        content = self.interaction(content, self.read_regions(pyramid, boxes_xyxy))
        content = self.ffn(content)
        logits = self.class_head(self.class_tower(content))
        deltas = self.box_head(self.box_tower(content))
        return content, logits, apply_deltas(boxes_xyxy, deltas)
