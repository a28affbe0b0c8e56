"""Conditional DETR: queries that attend around a reference point of their own.

Meng et al.: Conditional DETR for Fast Training Convergence, ICCV 2021, https://arxiv.org/abs/2108.06152.
Where the paper and the authors' code (Atten4Vis/ConditionalDETR) differ, this is the code.

    B images   N queries   K classes   T cells of the feature map   D width
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor, nn

from qdet.backbones import Backbone
from qdet.backbones.unread import freeze_unread
from qdet.detectors.detector import Detector, check_at_least
from qdet.detectors.transformer_config import TransformerConfig
from qdet.layers.heads import BoxHead, PerceptronHead, predict_layers, sigmoid_class_head
from qdet.layers.mlp import MLP
from qdet.layers.one_to_many.branches import Branching
from qdet.layers.position import embed_reference
from qdet.layers.queries import LearnedQueries
from qdet.layers.reference_points import boxes_from
from qdet.layers.transformer.conditional import conditional_layers
from qdet.layers.transformer.encoder import Memory, SingleScaleEncoder
from qdet.layers.transformer.layers import run, xavier_matrices
from qdet.types import PaddedSizes, Predictions


@dataclass(frozen=True, kw_only=True)
class ConditionalDETRConfig(TransformerConfig):
    """Conditional DETR; the defaults are the paper's ResNet-50, `backbone.dilate_c5` makes it the DC5 one."""

    queries: int = 300
    """Queries per image."""
    encoder_layers: int = 6
    """Layers of attention between the cells of the feature map."""
    detections: int = 100
    """Detections per image: the best pairs of query and class."""

    def __post_init__(self) -> None:
        """Raise ConfigError for settings that cannot be built."""
        super().__post_init__()
        check_at_least(self, 1, "queries", "detections")
        check_at_least(self, 0, "encoder_layers")

    def build(self, classes: int) -> "ConditionalDETR":
        """Build the detector with fresh weights; the caller loads pre-trained ones."""
        return ConditionalDETR(self, freeze_unread(self.backbone.build(), slice(-1, None)), classes)

    def demo(self) -> "ConditionalDETRConfig":
        """Return a detector small enough to learn 128-pixel images on two CPU cores."""
        return replace(
            self,
            **self.demo_sizes(),
            queries=30,
            encoder_layers=2,
            detections=30,
        )


class ConditionalDETR(Detector):
    """DETR's encoder, and a decoder whose queries each predict around their reference point."""

    def __init__(self, config: ConditionalDETRConfig, backbone: Backbone, classes: int) -> None:
        super().__init__()
        self.config = config
        self.backbone = backbone
        self.detections = config.detections
        self.projection = nn.Conv2d(backbone.channels[-1], config.width, kernel_size=1)
        self.encoder = SingleScaleEncoder(config.width, config.encoder_layers, **config.layer_sizes)
        self.decoder = Decoder(config)
        self.class_head = sigmoid_class_head(config.width, classes)
        self.box_head = BoxHead(config.width)
        self.box_head.start_at_zero()

    def decode(
        self, features: Sequence[Float[Tensor, "B _ _ _"]], sizes: PaddedSizes
    ) -> tuple[Predictions, ...]:
        """Predict from the coarsest map."""
        memory = self.encoder(self.projection(features[-1]), sizes, recompute=self.recomputes)
        outputs, points = self.decoder(memory, recompute=self.recomputes)
        stages = predict_layers(
            outputs, self.class_head, lambda x: boxes_from(self.box_head(x), points), sizes.sizes_hw
        )
        return self.decoder.branching.split(stages)


class Decoder(nn.Module):
    """Queries with zero content and a learned position, from which reference points are predicted.

    A query's spatial part is T * PE(s) (section 3.3). The reference point s is the same in every layer and
    not detached; T is predicted from the query's content, and 1 in the first layer, where that is zero.
    """

    def __init__(self, config: ConditionalDETRConfig) -> None:
        super().__init__()
        width = config.width
        self.layers = conditional_layers(config.decoder_layers, width, **config.layer_sizes)
        self.norm = nn.LayerNorm(width)
        self.place_scale = MLP(width, width, width, 2)
        self.point_head = PerceptronHead(width, 2, layers=2)
        xavier_matrices(self)
        self.branching = Branching(config.one_to_many, config.queries)
        extra = config.one_to_many.extra(config.queries)
        self.position = LearnedQueries(config.queries, width, normalize=False, extra=extra)

    def forward(
        self, memory: Memory, *, recompute: bool = False
    ) -> tuple[list[Float[Tensor, "B N D"]], Float[Tensor, "B N 2"]]:
        """Return every layer's queries after the norm that all share, and the reference points."""
        position = self.position(memory.x.shape[0])
        points = self.point_head(position).sigmoid()
        embedded = embed_reference(points, position.shape[-1])
        x, outputs = position.new_zeros(position.shape), []
        among = (position, self.branching.hide(x))
        for i, layer in enumerate(self.layers):
            place = embedded if i == 0 else embedded * self.place_scale(x)
            to_image = (position, place, memory.x, memory.position, memory.mask)
            x = run(layer, x, among, to_image, recompute=recompute)
            outputs.append(self.norm(x))
        return outputs, points
