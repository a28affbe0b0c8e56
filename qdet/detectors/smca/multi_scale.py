"""Multi-scale SMCA-DETR: an encoder that attends within and across scales, which queries blend.

Gao et al.: Fast Convergence of DETR with Spatially Modulated Co-Attention, ICCV 2021,
https://arxiv.org/abs/2101.07448, section 3. The authors released no code of this encoder. What the paper
leaves open is as in their later release (gaopengcuhk/SMCA-DETR, `Multi_scale_SMCA.zip`): the
convolutions of the maps, the embedding of scales, the weight of coarser cells.

    B images   N queries   K classes   T tokens of all scales   D width
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from qdet.backbones import Backbone
from qdet.backbones.unread import freeze_unread
from qdet.detectors.detector import Detector, check_at_least
from qdet.detectors.smca.modulated_decoder import ModulatedDecoder
from qdet.detectors.smca.scale_tokens import ScaleNeck, ScaleTokens
from qdet.detectors.transformer_config import TransformerConfig
from qdet.layers.attention.multi_head import SelfAttention
from qdet.layers.heads import BoxHead, predict_layers, sigmoid_class_head
from qdet.layers.reference_points import boxes_at
from qdet.layers.transformer.layers import EncoderLayer, run, xavier_matrices
from qdet.types import PaddedSizes, Predictions


@dataclass(frozen=True, kw_only=True)
class MultiScaleSMCAConfig(TransformerConfig):
    """SMCA-DETR on maps of strides 16, 32 and 64; the defaults are the paper's ResNet-50."""

    ffn: int = 1024
    queries: int = 300
    """Queries per image, and detections: the best pairs of query and class."""
    encoder: tuple[Literal["intra", "multi"], ...] = ("intra", "intra", "multi", "intra", "intra")
    """Each encoder layer's attention: within a scale, or across all scales."""
    shared_scales: bool = True
    """Give all scales of a layer within scales the same weights; otherwise each has its own."""
    scale_selection: bool = True
    """Predict a weight per query and scale (without, the paper has 42.6 AP instead of 43.7). The replacement
    is unspecified; here all scales are then weighed equally."""

    def __post_init__(self) -> None:
        """Raise ConfigError for settings that cannot be built."""
        super().__post_init__()
        check_at_least(self, 1, "queries")

    def build(self, classes: int) -> "MultiScaleSMCA":
        """Build the detector with fresh weights; the caller loads pre-trained ones."""
        return MultiScaleSMCA(self, freeze_unread(self.backbone.build(), slice(-2, None)), classes)

    def demo(self) -> "MultiScaleSMCAConfig":
        """Return a detector small enough to learn 128-pixel images on two CPU cores."""
        return replace(
            self,
            **self.demo_sizes(),
            queries=30,
            encoder=("intra", "multi"),
        )


class MultiScaleSMCA(Detector):
    """Three scales of tokens, an encoder within and across them, and a decoder that blends them."""

    def __init__(self, config: MultiScaleSMCAConfig, backbone: Backbone, classes: int) -> None:
        super().__init__()
        self.config = config
        self.backbone = backbone
        self.detections = config.queries
        self.neck = ScaleNeck(backbone.channels[-2:], backbone.strides[-2:], config.width)
        self.encoder = IntraMultiEncoder(config, len(self.neck.strides))
        self.decoder = ModulatedDecoder(
            config.queries,
            config.width,
            config.decoder_layers,
            self.neck.strides,
            one_to_many=config.one_to_many,
            **config.layer_sizes,
            select_scales=config.scale_selection,
        )
        self.class_head = sigmoid_class_head(config.width, classes)
        self.box_head = BoxHead(config.width)

    def decode(
        self, features: Sequence[Float[Tensor, "B _ _ _"]], sizes: PaddedSizes
    ) -> tuple[Predictions, ...]:
        """Predict from the two coarsest maps and a still coarser one, as SMCA does from one."""
        tokens = self.neck(features[-2:], sizes)
        memory = self.encoder(tokens, recompute=self.recomputes)
        outputs, centers = self.decoder(memory, sizes.sizes_hw, recompute=self.recomputes)
        stages = predict_layers(
            outputs, self.class_head, lambda x: boxes_at(self.box_head(x), centers), sizes.sizes_hw
        )
        return self.decoder.branching.split(stages)


class IntraMultiEncoder(nn.Module):
    """Layers of self-attention, within each of `scales`, with weights of its own or shared, or across all."""

    def __init__(self, config: MultiScaleSMCAConfig, scales: int) -> None:
        super().__init__()
        self.kinds, self.shared = config.encoder, config.shared_scales
        self.layers = nn.ModuleList(
            _make_layer(config)
            if kind == "multi" or self.shared
            else nn.ModuleList(_make_layer(config) for _ in range(scales))
            for kind in self.kinds
        )
        xavier_matrices(self)

    def forward(self, tokens: ScaleTokens, *, recompute: bool = False) -> ScaleTokens:
        """Return the encoded tokens; none attends to padding."""
        x, position, mask = tokens.x, tokens.position, tokens.mask
        for kind, layer in zip(self.kinds, self.layers, strict=True):
            if kind == "multi":
                x = run(layer, x, position, mask, recompute=recompute)
            else:
                scales = list(zip(*(tokens.split(t) for t in (x, position, mask)), strict=True))
                layers = [layer] * len(scales) if self.shared else list(cast(nn.ModuleList, layer))
                parts = zip(layers, scales, strict=True)
                x = torch.cat([run(own, *scale, recompute=recompute) for own, scale in parts], dim=1)
        return replace(tokens, x=x)


def _make_layer(config: MultiScaleSMCAConfig) -> EncoderLayer:
    attention = SelfAttention(config.width, heads=config.heads, dropout=config.dropout)
    return EncoderLayer(attention, config.width, config.ffn, dropout=config.dropout)
