"""DINO: Deformable DETR with anchor boxes from the best tokens, and contrastive denoising in training.

Zhang et al.: DINO, DETR with Improved DeNoising Anchor Boxes for End-to-End Object Detection, ICLR 2023,
https://arxiv.org/abs/2203.03605. Where the paper and the authors' code (IDEA-Research/DINO) differ, this is
the code.

    B images   N queries   K classes   T tokens of all levels   D width
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from jaxtyping import Float
from torch import Tensor

from qdet.backbones import Backbone
from qdet.backbones.unread import freeze_unread
from qdet.data.denoising.config import DINO_DENOISING, DenoisingConfig
from qdet.detectors.detector import DenoisingDetector, check_at_least
from qdet.detectors.dino.decoder import Decoder
from qdet.detectors.dino.selection import Content, TokenSelection
from qdet.detectors.transformer_config import DeformableConfig, check_tokens_allow
from qdet.errors import ConfigError
from qdet.layers.conv.multi_level_neck import MultiLevelNeck
from qdet.layers.denoising.queries import LabelEmbedding, put_first, split_predictions
from qdet.layers.heads import DetectionHead
from qdet.layers.one_to_many.branches import Branching
from qdet.layers.reference_points import to_pixels
from qdet.layers.token_levels import flatten_maps, token_levels
from qdet.layers.transformer.deformable import DeformableEncoder, LookForward
from qdet.types import ExtraQueries, PaddedSizes, Predictions, Proposals


@dataclass(frozen=True, kw_only=True)
class DINOConfig(DeformableConfig):
    """DINO; the defaults are the paper's ResNet-50 on four scales, `levels=5` makes it the one on five."""

    ffn: int = 2048
    dropout: float = 0.0
    detections: int = 300
    queries: int = 900
    """Queries per image: the best tokens, or all where there are fewer."""
    content: Content = "learned"
    """Initial content of queries: learned vectors (mixed selection), or the features of the tokens."""
    look_forward: LookForward = "twice"
    """Whether a layer's box loss also reaches the layer before it, through the box that it refines."""
    shared_heads: bool = True
    """Predict all layers with one head; otherwise every layer has its own."""
    map_temperatures_yx: tuple[float, float] = (20.0, 20.0)
    """Temperatures of the sine embedding of a cell's row and column."""
    query_temperature: float = 10_000.0
    """Temperature of the sine embedding of a query's box."""
    denoising: DenoisingConfig = field(default_factory=lambda: DINO_DENOISING)
    """Extra queries in training, from noised objects."""

    def __post_init__(self) -> None:
        """Raise ConfigError for settings that cannot be built."""
        super().__post_init__()
        check_at_least(self, 1, "queries", "encoder_layers")
        check_tokens_allow(self.one_to_many, "DINO")
        if min(*self.map_temperatures_yx, self.query_temperature) <= 0:
            raise ConfigError(
                "--detector.map-temperatures-yx and --detector.query-temperature must be above 0, "
                f"got {self.map_temperatures_yx} and {self.query_temperature}"
            )

    @property
    def backbone_levels(self) -> int:
        """Number of the backbone's last maps that are read: one level is convolved from the last."""
        return min(max(self.levels - 1, 1), 4)

    def build(self, classes: int) -> "DINO":
        """Build the detector with fresh weights; the caller loads pre-trained ones."""
        return DINO(self, freeze_unread(self.backbone.build(), self.maps_read), classes)

    def demo(self) -> "DINOConfig":
        """Return a detector small enough to learn 128-pixel images on two CPU cores."""
        return replace(
            self,
            **self.demo_sizes(),
            queries=30,
            encoder_layers=2,
            detections=30,
            denoising=replace(self.denoising, queries=20),
        )


class DINO(DenoisingDetector):
    """A multi-level neck, an encoder over all cells, the choice of the best, and a decoder from there."""

    def __init__(self, config: DINOConfig, backbone: Backbone, classes: int) -> None:
        super().__init__()
        c = self.config = config
        self.backbone = backbone
        self.detections, self.denoising = c.detections, c.denoising
        self.neck = MultiLevelNeck(backbone.channels[c.maps_read], c.width, levels=c.levels)
        self.encoder = DeformableEncoder(
            c.encoder_layers,
            c.width,
            points=c.encoder_points,
            temperatures_yx=c.map_temperatures_yx,
            offset=0.0,
            **c.layer_sizes,
        )
        heads = [DetectionHead(c.width, classes) for _ in range(1 if c.shared_heads else c.decoder_layers)]
        extra = c.one_to_many.extra(c.queries)
        self.selection = TokenSelection(c.queries, c.width, heads[0], content=c.content, extra=extra)
        self.branching = Branching(c.one_to_many, c.queries)
        self.decoder = Decoder(
            c.decoder_layers,
            c.width,
            heads,
            look_forward=c.look_forward,
            temperature=c.query_temperature,
            points=c.decoder_points,
            **c.layer_sizes,
        )
        self.labels = LabelEmbedding(classes, c.width) if c.denoising.kind != "none" else None

    def decode(
        self,
        features: Sequence[Float[Tensor, "B _ _ _"]],
        sizes: PaddedSizes,
        extra: ExtraQueries | None = None,
    ) -> tuple[Predictions, ...]:
        """Predict from the backbone's last maps; the chosen tokens' `Proposals` come first."""
        maps = self.neck(features[self.config.maps_read])
        levels = token_levels(maps, sizes)
        memory = self.encoder(flatten_maps(maps), levels, recompute=self.recomputes)
        content, reference, logits, boxes = self.selection(memory, levels)
        queries = put_first(self.labels, content, reference, extra)
        hidden = self.branching.hide(queries[0], None if extra is None else extra.groups)
        decoded = self.decoder(*queries, memory, levels, hidden, recompute=self.recomputes)
        stages = (Predictions(scores, to_pixels(b, sizes.sizes_hw)) for scores, b in decoded)
        proposals = Proposals(logits, to_pixels(boxes, sizes.sizes_hw))
        return proposals, *self.branching.split(split_predictions(stages, extra))
