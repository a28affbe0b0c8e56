"""Sparse R-CNN: a small set of learned boxes, each read by RoIAlign and refined by filters of its own.

Sun, Zhang, Jiang et al.: Sparse R-CNN, End-to-End Object Detection with Learnable Proposals, CVPR 2021,
https://arxiv.org/abs/2011.12450. Where the paper and the authors' code (PeizeSun/SparseR-CNN) differ, this
is the code.

    B images   N queries, the paper's proposals   K classes   D width
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from jaxtyping import Float, Int, Real
from torch import Tensor, nn

from qdet.backbones import BackboneConfig, ResNetConfig
from qdet.detectors.detector import Detector, check_at_least, check_split, clip_to_images
from qdet.layers.feature_pyramid import FPN
from qdet.layers.first_boxes import Start
from qdet.layers.region_decoder import RegionDecoder, RegionStage
from qdet.layers.roi_align import CANONICAL_SIZE, Pyramid
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
    start: Start = "image"
    """First boxes: all the whole image, as in the paper, or spread over it for short training."""
    roi_size: int = 7
    """Cells along each side of the region that a query reads."""
    canonical_size: int = CANONICAL_SIZE
    """Width and height in pixels of a box that is read from the map of stride 16; smaller ones from finer."""
    filters: int = 64
    """Features between the two convolutions that a query writes."""
    class_layers: int = 1
    """Linear layers before the class head's last."""
    box_layers: int = 3
    """Linear layers before the box head's last."""

    def __post_init__(self) -> None:
        """Reject what could never be built, in the words of the command line."""
        check_at_least(self, 1, "queries", "stages", "heads", "ffn", "roi_size", "canonical_size", "filters")
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
            start="grid",
            roi_size=5,
            canonical_size=CANONICAL_SIZE * 128 // 800,
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
        stages = (
            RegionStage(
                config.width,
                classes,
                heads=config.heads,
                ffn=config.ffn,
                dropout=config.dropout,
                roi_size=config.roi_size,
                filters=config.filters,
                dynamic_layers=2,
                class_layers=config.class_layers,
                box_layers=config.box_layers,
            )
            for _ in range(config.stages)
        )
        self.decoder = RegionDecoder(stages, config.queries, config.width, start=config.start)

    def decode(
        self, features: Sequence[Float[Tensor, "B _ _ _"]], sizes: PaddedSizes
    ) -> tuple[Predictions, ...]:
        """Predict from the backbone's feature maps, finest first."""
        pyramid = Pyramid.of(self.neck(features), self.strides, canonical_size=self.config.canonical_size)
        return self.decoder(pyramid, sizes.sizes_hw, recompute=self.recomputes)

    def detect(
        self, prediction: Predictions, sizes_hw: Int[Tensor, "B 2"], original_hw: Real[Tensor, "B 2"]
    ) -> Detections:
        """Take the best pairs of query and class and cut their boxes at the border, as detectron2 does."""
        return clip_to_images(super().detect(prediction, sizes_hw, original_hw), original_hw)
