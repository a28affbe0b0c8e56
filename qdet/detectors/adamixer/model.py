"""AdaMixer: queries that sample features in space and scale and decode them with generated weights.

Gao, Wang, Han, Guo: AdaMixer, A Fast-Converging Query-Based Object Detector, CVPR 2022,
https://arxiv.org/abs/2203.16507. Where the paper and the authors' code (MCG-NJU/AdaMixer) differ, this is
the code.

    B images   N queries   E extra queries   Q = E + N   K classes   D query width
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from qdet.backbones import Backbone, BackboneConfig, ResNetConfig
from qdet.backbones.unread import freeze_unread
from qdet.data.denoising.config import DenoisingConfig
from qdet.detectors.adamixer.adaptive_mixing import AdaptiveMixing, MixingOrder
from qdet.detectors.adamixer.channel_mapping import ChannelMapping
from qdet.detectors.adamixer.overlap_attention import OverlapAttention
from qdet.detectors.adamixer.sampling import ONE_LEVEL, Maps, Sampling, lay_out, make_sampling
from qdet.detectors.adamixer.xyzr import PlacedBoxes, place, refine_xyzr, scale_to_images
from qdet.detectors.detector import DenoisingDetector, check_at_least, check_split
from qdet.errors import ConfigError
from qdet.layers.attention.visibility import hide_groups
from qdet.layers.conv.feature_pyramid import FPN, PAFPN
from qdet.layers.denoising.queries import LabelEmbedding, put_first, split_predictions
from qdet.layers.heads import Head, start_at_prior
from qdet.layers.mlp import FeedForward, tower
from qdet.layers.position import embed_xyzr
from qdet.layers.precision import widen
from qdet.layers.queries import LearnedQueries, Start, first_boxes
from qdet.layers.transformer.layers import run
from qdet.types import ExtraQueries, PaddedSizes, Predictions

PYRAMIDS = {"none": nn.Identity, "fpn": FPN, "pafpn": PAFPN}


@dataclass(frozen=True, kw_only=True)
class AdaMixerConfig:
    """AdaMixer; the defaults are the paper's ResNet-50 with 100 queries."""

    backbone: BackboneConfig = field(default_factory=lambda: ResNetConfig(norm="eval"))
    queries: int = 100
    """Queries per image; the paper's larger models use 300."""
    stages: int = 6
    """Decoder stages, each with its own weights."""
    width: int = 256
    """Features of a query's content vector."""
    feature_width: int = 256
    """Channels of the feature maps that queries sample."""
    heads: int = 8
    """Heads of the attention between queries."""
    groups: int = 4
    """Groups that the channels split into; each is sampled and mixed on its own."""
    points_in: int = 32
    """Points that a query samples per group: P_in in the paper."""
    points_out: int = 128
    """Points that spatial mixing turns them into: P_out in the paper."""
    sampling: Sampling = "3d"
    """Points in space and scale, in space (2d), on one level, or RoIAlign's 7 x 7 instead of `points_in`."""
    mixing: MixingOrder = "acm-asm"
    """Order of adaptive channel mixing (ACM) and adaptive spatial mixing (ASM)."""
    adaptive: Literal["both", "location", "content", "none"] = "both"
    """What is generated per query: sampling points, mixing weights, both or neither; the rest is shared."""
    position: Literal["both", "sine", "iof", "none"] = "both"
    """Box information in attention between queries: sine embedding, overlap (IoF), both or none."""
    pyramid: Literal["none", "fpn", "pafpn"] = "none"
    """Extra pyramid after the channel mapping; none in the paper."""
    ffn: int = 2048
    """Hidden features of the feed-forward blocks."""
    class_layers: int = 1
    """Linear layers before the class head's last."""
    box_layers: int = 1
    """Linear layers before the box head's last."""
    start: Start = "image"
    """Initial boxes: the whole image, as in the paper, or a grid over it for short training."""
    position_scale: float = 1e-3
    """Positions in pixels are multiplied by this before they are embedded."""
    detections: int | None = None
    """Detections per image; by default as many as queries."""
    denoising: DenoisingConfig = field(default_factory=DenoisingConfig)
    """Extra queries in training, from noised objects; not in the paper."""

    def __post_init__(self) -> None:
        """Raise ConfigError for settings that cannot be built."""
        check_at_least(self, 1, "queries", "stages", "heads", "groups", "points_in", "points_out", "ffn")
        check_at_least(self, 0, "class_layers", "box_layers")
        if self.position_scale <= 0:
            raise ConfigError(f"--detector.position-scale must be above 0, got {self.position_scale}")
        if self.detections is not None:
            check_at_least(self, 1, "detections")
        if self.pyramid != "none" and self.sampling in ONE_LEVEL:
            raise ConfigError(
                "--detector.pyramid needs all levels; --detector.sampling reads only one of them"
            )
        check_split(self, "width", "heads")
        check_split(self, "width", 8, "sine and cosine of four coordinates")
        check_split(self, "feature_width", "groups")
        check_split(self, "feature_width", 32, "the groups of its normalisation")

    @property
    def maps_read(self) -> slice:
        """The backbone's maps that are read."""
        return ONE_LEVEL.get(self.sampling, slice(None))

    def build(self, classes: int) -> "AdaMixer":
        """Build the detector with fresh weights; the caller loads pre-trained ones."""
        return AdaMixer(self, freeze_unread(self.backbone.build(), self.maps_read), classes)

    def demo(self) -> "AdaMixerConfig":
        """Return a detector small enough to learn 128-pixel images on two CPU cores in minutes."""
        return replace(
            self,
            backbone=self.backbone.demo(),
            queries=30,
            stages=3,
            width=64,
            feature_width=64,
            heads=4,
            points_in=16,
            points_out=16,
            ffn=256,
            start="grid",
            position_scale=1 / 128,
        )


class AdaMixer(DenoisingDetector):
    """A backbone, a neck without a pyramid, and a decoder whose stages refine one set of queries."""

    def __init__(self, config: AdaMixerConfig, backbone: Backbone, classes: int) -> None:
        super().__init__()
        self.config = config
        self.backbone = backbone
        self.detections, self.denoising = config.detections or config.queries, config.denoising
        channels = backbone.channels[config.maps_read]
        self.strides = backbone.strides[config.maps_read]
        self.neck = ChannelMapping(channels, config.feature_width)
        self.pyramid = PYRAMIDS[config.pyramid]([config.feature_width] * len(channels), config.feature_width)
        self.decoder = Decoder(config, self.strides, classes)

    def decode(
        self,
        features: Sequence[Float[Tensor, "B _ _ _"]],
        sizes: PaddedSizes,
        extra: ExtraQueries | None = None,
    ) -> tuple[Predictions, ...]:
        """Predict from the backbone's feature maps, finest first."""
        maps = widen(self.pyramid(self.neck(features[self.config.maps_read])))
        c = self.config
        maps = lay_out(c.sampling, maps, self.strides, groups=c.groups, points=c.points_in)
        return self.decoder(maps, sizes.sizes_hw, extra, recompute=self.recomputes)


class Decoder(nn.Module):
    """Learned content vectors and fixed first boxes, refined stage by stage.

    A stage's boxes are detached before the next reads them: gradients pass between stages by content alone.
    """

    def __init__(self, config: AdaMixerConfig, strides: Sequence[int], classes: int) -> None:
        super().__init__()
        self.content = LearnedQueries(config.queries, config.width, normalize=True)
        # The authors keep these as a parameter that never gets a gradient; a buffer says so.
        self.register_buffer("first_boxes_cxcywh", first_boxes(config.queries, config.start))
        self.first_boxes_cxcywh: Tensor
        denoising = config.denoising.kind != "none"
        self.labels = LabelEmbedding(classes, config.width) if denoising else None
        self.stages = nn.ModuleList(Stage(config, strides, classes) for _ in range(config.stages))

    def forward(
        self,
        features: Maps,
        sizes_hw: Int[Tensor, "B 2"],
        extra: ExtraQueries | None = None,
        *,
        recompute: bool = False,
    ) -> tuple[Predictions, ...]:
        """Return each stage's predictions; `recompute` trades activations for a second forward pass."""
        content = self.content(sizes_hw.shape[0])
        boxes = self.first_boxes_cxcywh.expand(content.shape[0], -1, -1)
        content, boxes = put_first(self.labels, content, boxes, extra, normalize=True)
        hidden = None if extra is None else hide_groups(extra.groups, self.content.weight.shape[0])
        placed = place(scale_to_images(boxes, sizes_hw))
        predictions = []
        for stage in self.stages:
            content, logits, xyzr = run(
                stage, content, placed.detach(), features, hidden, recompute=recompute
            )
            placed = place(xyzr)
            predictions.append(Predictions(logits, placed.xyxy))
        return split_predictions(predictions, extra)


class Stage(nn.Module):
    """Attend to the other queries, sample, mix, and predict: one refinement of every query."""

    def __init__(self, config: AdaMixerConfig, strides: Sequence[int], classes: int) -> None:
        super().__init__()
        width = config.width
        self.position_scale = config.position_scale if config.position in ("sine", "both") else None
        biased = config.position in ("iof", "both")
        self.attention = OverlapAttention(width, heads=config.heads, biased=biased)
        self.attention_norm = nn.LayerNorm(width)
        self.sampling = make_sampling(
            config.sampling,
            width,
            strides,
            groups=config.groups,
            points=config.points_in,
            adaptive=config.adaptive in ("both", "location"),
        )
        self.mixing = AdaptiveMixing(
            width,
            config.feature_width,
            groups=config.groups,
            points_in=self.sampling.points,
            points_out=config.points_out,
            order=config.mixing,
            adaptive=config.adaptive in ("both", "content"),
        )
        self.mixing_norm = nn.LayerNorm(width)
        self.ffn = FeedForward(width, config.ffn)
        self.ffn_norm = nn.LayerNorm(width)
        self.class_tower = tower(width, config.class_layers)
        self.box_tower = tower(width, config.box_layers)
        self.class_head = Head(width, classes)
        self.box_head = Head(width, 4)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise as the authors' code does: the first forward pass leaves every box unchanged.

        Weights are Xavier's and biases torch's defaults, not zero, with the exceptions below.
        """
        for linear in (m for m in self.modules() if isinstance(m, nn.Linear)):
            linear.reset_parameters()
            nn.init.xavier_uniform_(linear.weight)
        for part in (self.attention, self.sampling, self.mixing):
            part.reset_parameters()
        start_at_prior(self.class_head)
        nn.init.zeros_(self.box_head.weight)
        nn.init.zeros_(self.box_head.bias)

    def forward(
        self,
        content: Float[Tensor, "B Q D"],
        boxes: PlacedBoxes,
        features: Maps,
        hidden: Bool[Tensor, "B Q Q"] | None = None,
    ) -> tuple[Float[Tensor, "B Q D"], Float[Tensor, "B Q K"], Float[Tensor, "B Q 4"]]:
        """Return the new content, its class logits and the refined boxes, as xyzr.

        True in `hidden` where a query (row) must not see another (column).
        """
        if self.position_scale is not None:
            content = content + embed_xyzr(boxes.xyzr, content.shape[-1], scale=self.position_scale)
        content = self.attention_norm(self.attention(content, boxes.xyxy, hidden))
        content = self.mixing_norm(self.mixing(content, self.sampling(content, boxes, features)))
        content = self.ffn_norm(content + self.ffn(content))
        logits = self.class_head(self.class_tower(content))
        delta = self.box_head(self.box_tower(content))
        return content, logits, refine_xyzr(boxes.xyzr, delta)
