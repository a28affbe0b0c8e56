"""DETR: a transformer between one feature map and a fixed set of learned queries.

Carion et al.: End-to-End Object Detection with Transformers, ECCV 2020, https://arxiv.org/abs/2005.12872.
Where the paper and the authors' code (facebookresearch/detr) differ, this is the code.

    B images   N queries   K classes   T cells of the feature map   D width
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from jaxtyping import Float, Int, Real
from torch import Tensor, nn

from qdet.backbones import Backbone
from qdet.backbones.unread import freeze_unread
from qdet.detectors.detector import Detector, best_of_each_query, check_at_least
from qdet.detectors.transformer_config import TransformerConfig
from qdet.errors import ConfigError
from qdet.layers.attention.multi_head import CrossAttention, SelfAttention
from qdet.layers.heads import BoxHead, Head, Scores, predict_layers, sigmoid_class_head
from qdet.layers.one_to_many.branches import Branching
from qdet.layers.queries import LearnedQueries
from qdet.layers.transformer.encoder import Memory, SingleScaleEncoder
from qdet.layers.transformer.layers import DecoderLayer, run, xavier_matrices
from qdet.types import BatchDetections, PaddedSizes, Predictions


@dataclass(frozen=True, kw_only=True)
class DETRConfig(TransformerConfig):
    """DETR; the defaults are the paper's ResNet-50. `backbone.dilate_c5` makes it DETR-DC5."""

    scores: Scores = "softmax"
    """One class or no object per query, or independent classes; must equal `loss.scores`. The latter, with
    300 queries and the focal loss, is DETR-DC5+ of Deformable DETR's table 1."""
    queries: int = 100
    """Queries per image, and detections: at most as many objects are found."""
    encoder_layers: int = 6
    """Layers of attention between the cells of the feature map."""
    pre_norm: bool = False
    """Normalise before each residual update instead of after it."""
    skip_first: bool = False
    """Leave out the first attention between queries, which have no content yet (appendix A.3)."""

    def __post_init__(self) -> None:
        """Raise ConfigError for settings that cannot be built."""
        super().__post_init__()
        check_at_least(self, 1, "queries")
        check_at_least(self, 0, "encoder_layers")
        if self.scores == "softmax" and self.one_to_many.kind == "hybrid":
            raise ConfigError(
                "--detector.one-to-many.kind hybrid needs --detector.scores sigmoid: the cross-entropy of "
                "softmax is divided by a number of matches that holds for the detector's own queries alone"
            )

    def build(self, classes: int) -> "DETR":
        """Build the detector with fresh weights; the caller loads pre-trained ones."""
        return DETR(self, freeze_unread(self.backbone.build(), slice(-1, None)), classes)

    def demo(self) -> "DETRConfig":
        """Return a detector small enough to learn 128-pixel images on two CPU cores."""
        return replace(
            self,
            **self.demo_sizes(),
            queries=30,
            encoder_layers=2,
        )


class DETR(Detector):
    """A backbone, an encoder over its coarsest map, and a decoder whose layers share their heads."""

    def __init__(self, config: DETRConfig, backbone: Backbone, classes: int) -> None:
        super().__init__()
        self.config = config
        self.backbone = backbone
        self.detections = config.queries
        self.projection = nn.Conv2d(backbone.channels[-1], config.width, kernel_size=1)
        self.encoder = SingleScaleEncoder(
            config.width, config.encoder_layers, **config.layer_sizes, pre_norm=config.pre_norm
        )
        self.decoder = Decoder(config)
        sigmoid = config.scores == "sigmoid"
        self.class_head = (
            sigmoid_class_head(config.width, classes) if sigmoid else Head(config.width, classes + 1)
        )
        self.box_head = BoxHead(config.width)

    def decode(
        self, features: Sequence[Float[Tensor, "B _ _ _"]], sizes: PaddedSizes
    ) -> tuple[Predictions, ...]:
        """Predict from the coarsest map; with softmax, the last class logit is that of no object."""
        memory = self.encoder(self.projection(features[-1]), sizes, recompute=self.recomputes)
        outputs = self.decoder(memory, recompute=self.recomputes)
        stages = predict_layers(
            outputs, self.class_head, lambda x: self.box_head(x).sigmoid(), sizes.sizes_hw
        )
        return self.decoder.branching.split(stages)

    def detect(
        self, prediction: Predictions, sizes_hw: Int[Tensor, "B 2"], original_hw: Real[Tensor, "B 2"]
    ) -> BatchDetections:
        """Take the best class of every query; with sigmoid scores, the best pairs of query and class."""
        take = super().detect if self.config.scores == "sigmoid" else best_of_each_query
        return take(prediction, sizes_hw, original_hw)


class Unchanged(nn.Module):
    """An update that is left out."""

    def forward(self, x: Float[Tensor, "B N D"], *_: Any) -> Float[Tensor, "B N D"]:
        """Return `x`."""
        return x


class Decoder(nn.Module):
    """Queries with zero content and a learned position, updated layer by layer."""

    def __init__(self, config: DETRConfig) -> None:
        super().__init__()
        width, heads, dropout = config.width, config.heads, config.dropout
        self.layers = nn.ModuleList(
            DecoderLayer(
                SelfAttention(width, heads=heads, dropout=dropout),
                CrossAttention(width, heads=heads, dropout=dropout),
                width,
                config.ffn,
                dropout=dropout,
                pre_norm=config.pre_norm,
            )
            for _ in range(config.decoder_layers)
        )
        if config.skip_first:
            self.layers[0].self_attention = Unchanged()
        self.norm = nn.LayerNorm(width)
        xavier_matrices(self)
        self.branching = Branching(config.one_to_many, config.queries)
        extra = config.one_to_many.extra(config.queries)
        self.position = LearnedQueries(config.queries, width, normalize=False, extra=extra)

    def forward(self, memory: Memory, *, recompute: bool = False) -> list[Float[Tensor, "B N D"]]:
        """Return every layer's queries after the norm that all layers share."""
        position = self.position(memory.x.shape[0])
        to_image = (position, memory.x, memory.x + memory.position, memory.mask)
        x, outputs = position.new_zeros(position.shape), []
        among = (position, self.branching.hide(x))
        for layer in self.layers:
            x = run(layer, x, among, to_image, recompute=recompute)
            outputs.append(self.norm(x))
        return outputs
