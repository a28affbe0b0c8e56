"""Sparse R-CNN: a small set of learned boxes, each read by RoIAlign and refined by its own filters.

Sun, Zhang, Jiang et al.: Sparse R-CNN, End-to-End Object Detection with Learnable Proposals, CVPR 2021,
https://arxiv.org/abs/2011.12450. Where the paper and the authors' code (PeizeSun/SparseR-CNN) differ, this
is the code.

    B images   N queries, the paper's proposals   K classes   D width
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from jaxtyping import Float, Int, Real
from torch import Tensor

from qdet.backbones import Backbone
from qdet.backbones.unread import freeze_unread
from qdet.data.denoising.config import DenoisingConfig
from qdet.detectors.detector import DenoisingDetector, best_of_each_query, check_at_least, clip_to_images
from qdet.detectors.region_config import RegionConfig
from qdet.errors import ConfigError
from qdet.layers.conv.feature_pyramid import FPN
from qdet.layers.heads import Scores
from qdet.layers.regions.decoder import RegionDecoder, RegionStage
from qdet.layers.regions.roi_align import Pyramid
from qdet.types import BatchDetections, ExtraQueries, PaddedSizes, Predictions


@dataclass(frozen=True, kw_only=True)
class SparseRCNNConfig(RegionConfig):
    """Sparse R-CNN; the defaults are the paper's ResNet-50 with 100 proposals."""

    stages: int = 6
    """Refinement stages, each with its own weights."""
    filters: int = 64
    """Features between the two convolutions that a query generates."""
    class_layers: int = 1
    """Linear layers before the class head's last."""
    box_layers: int = 3
    """Linear layers before the box head's last."""
    scores: Scores = "sigmoid"
    """Independent classes, or exactly one class or no object; must equal `loss.scores`."""
    denoising: DenoisingConfig = field(default_factory=DenoisingConfig)
    """Extra queries in training, from noised objects; not in the paper."""

    def __post_init__(self) -> None:
        """Raise ConfigError for settings that cannot be built."""
        super().__post_init__()
        check_at_least(self, 1, "stages", "filters")
        check_at_least(self, 0, "class_layers", "box_layers")
        if self.denoising.kind != "none" and self.scores == "softmax":
            kind = self.denoising.kind
            raise ConfigError(
                f"--detector.denoising.kind {kind} needs --detector.scores sigmoid, got softmax"
            )

    def build(self, classes: int) -> "SparseRCNN":
        """Build the detector with fresh weights; the caller loads pre-trained ones."""
        return SparseRCNN(self, freeze_unread(self.backbone.build(), slice(None)), classes)

    def demo(self) -> "SparseRCNNConfig":
        """Return a detector small enough to learn 128-pixel images on two CPU cores."""
        return replace(
            self,
            **self.demo_sizes(),
            stages=3,
            filters=16,
            box_layers=1,
        )


class SparseRCNN(DenoisingDetector):
    """A backbone, a feature pyramid, and stages that refine learned boxes and features."""

    def __init__(self, config: SparseRCNNConfig, backbone: Backbone, classes: int) -> None:
        super().__init__()
        self.config = config
        self.backbone = backbone
        self.detections, self.denoising = config.queries, config.denoising
        self.neck = FPN(backbone.channels, config.width)
        self.strides = tuple(backbone.strides)
        stages = (
            RegionStage(
                config.width,
                classes,
                **config.stage_sizes(),
                filters=config.filters,
                dynamic_layers=2,
                class_layers=config.class_layers,
                box_layers=config.box_layers,
                scores=config.scores,
            )
            for _ in range(config.stages)
        )
        self.decoder = RegionDecoder(
            stages,
            config.queries,
            config.width,
            start=config.start,
            classes=None if config.denoising.kind == "none" else classes,
        )

    def decode(
        self,
        features: Sequence[Float[Tensor, "B _ _ _"]],
        sizes: PaddedSizes,
        extra: ExtraQueries | None = None,
    ) -> tuple[Predictions, ...]:
        """Predict from the backbone's feature maps, finest first."""
        pyramid = Pyramid.of(self.neck(features), self.strides, canonical_size=self.config.canonical_size)
        return self.decoder(pyramid, sizes.sizes_hw, extra, recompute=self.recomputes)

    def detect(
        self, prediction: Predictions, sizes_hw: Int[Tensor, "B 2"], original_hw: Real[Tensor, "B 2"]
    ) -> BatchDetections:
        """Take the best pairs of query and class and clip their boxes, as detectron2 does.

        With softmax scores, take each query's best class.
        """
        take = best_of_each_query if self.config.scores == "softmax" else super().detect
        return clip_to_images(take(prediction, sizes_hw, original_hw), original_hw)
