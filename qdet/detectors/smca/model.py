"""SMCA-DETR: queries that attend around predicted centres, with predicted width and height.

Gao et al.: Fast Convergence of DETR with Spatially Modulated Co-Attention, ICCV 2021,
https://arxiv.org/abs/2101.07448, section 3. Where the paper and the authors' code
(gaopengcuhk/SMCA-DETR) differ, this is the code.

    B images   N queries   K classes
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor, nn

from qdet.backbones import Backbone
from qdet.backbones.unread import freeze_unread
from qdet.detectors.detector import Detector, check_at_least
from qdet.detectors.smca.gaussian_prior import Sharpness
from qdet.detectors.smca.modulated_decoder import ModulatedDecoder
from qdet.detectors.smca.scale_tokens import ScaleTokens
from qdet.detectors.transformer_config import TransformerConfig
from qdet.layers.heads import BoxHead, predict_layers, sigmoid_class_head
from qdet.layers.reference_points import boxes_at
from qdet.layers.transformer.encoder import SingleScaleEncoder
from qdet.types import PaddedSizes, Predictions


@dataclass(frozen=True, kw_only=True)
class SMCAConfig(TransformerConfig):
    """SMCA-DETR on one feature map; the defaults are the paper's ResNet-50."""

    queries: int = 300
    """Queries per image, and detections: the best pairs of query and class."""
    encoder_layers: int = 6
    """Layers of attention between the cells of the feature map."""
    sharpness: Sharpness = "independent"
    """Predicted sharpness of a query's Gaussians: none, one number, one each for x and y, or also one for the
    product of both distances. The paper calls them scales: fixed, single, independent."""
    head_shared: bool = False
    """Share one Gaussian between all heads instead of one per head."""

    def __post_init__(self) -> None:
        """Raise ConfigError for settings that cannot be built."""
        super().__post_init__()
        check_at_least(self, 1, "queries")
        check_at_least(self, 0, "encoder_layers")

    def build(self, classes: int) -> "SMCA":
        """Build the detector with fresh weights; the caller loads pre-trained ones."""
        return SMCA(self, freeze_unread(self.backbone.build(), slice(-1, None)), classes)

    def demo(self) -> "SMCAConfig":
        """Return a detector small enough to learn 128-pixel images on two CPU cores."""
        return replace(
            self,
            **self.demo_sizes(),
            queries=30,
            encoder_layers=2,
        )


class SMCA(Detector):
    """DETR's encoder, and a decoder that modulates attention with Gaussians."""

    def __init__(self, config: SMCAConfig, backbone: Backbone, classes: int) -> None:
        super().__init__()
        self.config = config
        self.backbone = backbone
        self.detections = config.queries
        self.projection = nn.Conv2d(backbone.channels[-1], config.width, kernel_size=1)
        self.encoder = SingleScaleEncoder(config.width, config.encoder_layers, **config.layer_sizes)
        self.decoder = ModulatedDecoder(
            config.queries,
            config.width,
            config.decoder_layers,
            backbone.strides[-1:],
            one_to_many=config.one_to_many,
            **config.layer_sizes,
            sharpness=config.sharpness,
            head_shared=config.head_shared,
        )
        self.class_head = sigmoid_class_head(config.width, classes)
        self.box_head = BoxHead(config.width)

    def decode(
        self, features: Sequence[Float[Tensor, "B _ _ _"]], sizes: PaddedSizes
    ) -> tuple[Predictions, ...]:
        """Predict from the coarsest map; boxes of all layers are offsets from the first layer's centres."""
        memory = self.encoder(self.projection(features[-1]), sizes, recompute=self.recomputes)
        scale = ScaleTokens(memory.x, memory.position, memory.mask, (memory.shape_hw,))
        outputs, centers = self.decoder(scale, sizes.sizes_hw, recompute=self.recomputes)
        stages = predict_layers(
            outputs, self.class_head, lambda x: boxes_at(self.box_head(x), centers), sizes.sizes_hw
        )
        return self.decoder.branching.split(stages)
