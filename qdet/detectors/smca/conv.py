"""Convolutional SMCA-DETR: the multi-scale detector with an encoder of depthwise convolutions.

The authors of SMCA-DETR (Gao et al., ICCV 2021, https://arxiv.org/abs/2101.07448) released it after the paper
as their new multi-scale model (gaopengcuhk/SMCA-DETR, `Multi_scale_SMCA.zip`). There the first image of a
batch selects the scales for all images; here each image selects its own, as there in a batch of one.

    B images   N queries   K classes   T tokens of all scales   D width
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from qdet.backbones import Backbone
from qdet.backbones.unread import freeze_unread
from qdet.detectors.detector import Detector, check_at_least
from qdet.detectors.smca.modulated_decoder import ModulatedDecoder
from qdet.detectors.smca.scale_exchange import ScaleExchange
from qdet.detectors.smca.scale_tokens import ScaleNeck, ScaleTokens
from qdet.detectors.transformer_config import TransformerConfig
from qdet.errors import ConfigError
from qdet.layers.heads import BoxHead, predict_layers, sigmoid_class_head
from qdet.layers.reference_points import boxes_at
from qdet.layers.transformer.layers import EncoderLayer, run, xavier_matrices
from qdet.types import PaddedSizes, Predictions


@dataclass(frozen=True, kw_only=True)
class ConvSMCAConfig(TransformerConfig):
    """SMCA-DETR on maps of strides 8 to 64 without attention between cells; the defaults are the authors'."""

    ffn: int = 1024
    queries: int = 300
    """Queries per image, and detections: the best pairs of query and class."""
    encoder_layers: int = 5
    """Layers of convolutions within and between scales."""
    kernel: int = 5
    """Height and width of the depthwise kernels."""

    def __post_init__(self) -> None:
        """Raise ConfigError for settings that cannot be built."""
        super().__post_init__()
        check_at_least(self, 1, "queries", "kernel")
        check_at_least(self, 0, "encoder_layers")
        if self.kernel % 2 == 0:
            raise ConfigError(f"--detector.kernel must be odd, got {self.kernel}")

    def build(self, classes: int) -> "ConvSMCA":
        """Build the detector with fresh weights; the caller loads pre-trained ones."""
        return ConvSMCA(self, freeze_unread(self.backbone.build(), slice(-3, None)), classes)

    def demo(self) -> "ConvSMCAConfig":
        """Return a detector small enough to learn 128-pixel images on two CPU cores."""
        return replace(
            self,
            **self.demo_sizes(),
            queries=30,
            encoder_layers=2,
        )


class ConvSMCA(Detector):
    """Four scales of tokens, a convolutional encoder, and a decoder that blends the scales.

    The decoder reads the finest scale through a convolution of stride 2, at the next scale's positions.
    """

    def __init__(self, config: ConvSMCAConfig, backbone: Backbone, classes: int) -> None:
        super().__init__()
        self.config = config
        self.backbone = backbone
        self.detections = config.queries
        width, dropout = config.width, config.dropout
        self.neck = ScaleNeck(backbone.channels[-3:], backbone.strides[-3:], width)
        self.encoder = nn.ModuleList(
            EncoderLayer(ScaleExchange(width, 4, kernel=config.kernel), width, config.ffn, dropout=dropout)
            for _ in range(config.encoder_layers)
        )
        xavier_matrices(self.encoder)
        self.reduction = nn.Conv2d(width, width, kernel_size=3, stride=2, padding=1)
        self.decoder = ModulatedDecoder(
            config.queries,
            width,
            config.decoder_layers,
            (self.neck.strides[1], *self.neck.strides[1:]),
            one_to_many=config.one_to_many,
            **config.layer_sizes,
        )
        self.class_head = sigmoid_class_head(width, classes)
        self.box_head = BoxHead(width)

    def decode(
        self, features: Sequence[Float[Tensor, "B _ _ _"]], sizes: PaddedSizes
    ) -> tuple[Predictions, ...]:
        """Predict from the three coarsest maps and a still coarser one, as SMCA does from one."""
        tokens = self.neck(features[-3:], sizes)
        x = tokens.x
        for layer in self.encoder:
            x = run(layer, x, tokens.position, tokens.shapes_hw, recompute=self.recomputes)
        memory = self._reduce_finest(replace(tokens, x=x))
        outputs, centers = self.decoder(memory, sizes.sizes_hw, recompute=self.recomputes)
        stages = predict_layers(
            outputs, self.class_head, lambda x: boxes_at(self.box_head(x), centers), sizes.sizes_hw
        )
        return self.decoder.branching.split(stages)

    def _reduce_finest(self, tokens: ScaleTokens) -> ScaleTokens:
        """Downsample the finest scale to the cells of the next."""
        finest, *x = tokens.split(tokens.x)
        finest = self.reduction(finest.mT.unflatten(-1, tokens.shapes_hw[0])).flatten(2).mT
        _, *position = tokens.split(tokens.position)
        _, *mask = tokens.split(tokens.mask)
        return ScaleTokens(
            torch.cat((finest, *x), dim=1),
            torch.cat((position[0], *position), dim=1),
            torch.cat((mask[0], *mask), dim=1),
            (tokens.shapes_hw[1], *tokens.shapes_hw[1:]),
        )
