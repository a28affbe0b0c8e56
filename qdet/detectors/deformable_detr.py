"""Deformable DETR: queries and multi-level tokens that each sample a few points of their own choice.

Zhu et al.: Deformable DETR, Deformable Transformers for End-to-End Object Detection, ICLR 2021,
https://arxiv.org/abs/2010.04159. Where the paper and the authors' code (fundamentalvision/Deformable-DETR)
differ, this is the code.

    B images   N queries   K classes   T tokens of all levels   D width
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from qdet.backbones import Backbone
from qdet.backbones.unread import freeze_unread
from qdet.detectors.detector import Detector, check_at_least
from qdet.detectors.transformer_config import DeformableConfig, check_tokens_allow
from qdet.errors import ConfigError
from qdet.layers.conv.multi_level_neck import MultiLevelNeck
from qdet.layers.heads import DetectionHead, Head
from qdet.layers.one_to_many.branches import Branching
from qdet.layers.queries import LearnedQueries
from qdet.layers.reference_points import to_pixels
from qdet.layers.token_levels import TokenLevels, flatten_maps, token_levels
from qdet.layers.transformer.box_position import BoxPosition
from qdet.layers.transformer.deformable import DeformableDecoder, DeformableEncoder, LookForward
from qdet.layers.transformer.layers import xavier_matrices
from qdet.layers.transformer.token_proposals import best_tokens, grid_anchors, settle, take
from qdet.types import PaddedSizes, Predictions, Proposals


@dataclass(frozen=True, kw_only=True)
class DeformableDETRConfig(DeformableConfig):
    """Deformable DETR; the defaults are the paper's ResNet-50 on four levels, without its two additions."""

    queries: int = 300
    """Queries per image."""
    refine: bool = False
    """Refine boxes layer by layer; every decoder layer then has its own heads."""
    two_stage: bool = False
    """Start queries from the encoder's best proposals rather than learned ones; needs `refine`."""
    content: Literal["box", "learned"] = "box"
    """What content queries start from with two stages: their boxes too, or learned vectors (H-DETR's mixed
    selection)."""
    look_forward: LookForward = "once"
    """Whether a layer's box loss also reaches the layer before it; twice needs `refine`."""

    def __post_init__(self) -> None:
        """Raise ConfigError for settings that cannot be built."""
        super().__post_init__()
        check_at_least(self, 1, "queries")
        if self.two_stage and not self.refine:
            raise ConfigError("--detector.two-stage needs --detector.refine: proposals are boxes to refine")
        if self.look_forward == "twice" and not self.refine:
            raise ConfigError("--detector.look-forward twice needs --detector.refine: no box is passed on")
        if self.content == "learned" and not self.two_stage:
            raise ConfigError("--detector.content is for --detector.two-stage: others are learned anyway")
        if self.two_stage:
            check_tokens_allow(self.one_to_many, "--detector.two-stage")

    def build(self, classes: int) -> "DeformableDETR":
        """Build the detector with fresh weights; the caller loads pre-trained ones."""
        return DeformableDETR(self, freeze_unread(self.backbone.build(), self.maps_read), classes)

    def demo(self) -> "DeformableDETRConfig":
        """Return a detector small enough to learn 128-pixel images on two CPU cores."""
        return replace(
            self,
            **self.demo_sizes(),
            queries=30,
            encoder_layers=2,
        )


class DeformableDETR(Detector):
    """A multi-level neck, an encoder over all cells, and a decoder that samples them."""

    def __init__(self, config: DeformableDETRConfig, backbone: Backbone, classes: int) -> None:
        super().__init__()
        c = self.config = config
        self.backbone = backbone
        self.detections = c.detections
        self.neck = MultiLevelNeck(backbone.channels[c.maps_read], c.width, levels=c.levels)
        self.encoder = DeformableEncoder(c.encoder_layers, c.width, points=c.encoder_points, **c.layer_sizes)
        extra = c.one_to_many.extra(c.queries)
        if c.two_stage:
            self.start = ProposedQueries(c.queries, c.width, content=c.content, extra=extra)
        else:
            self.start = PointQueries(c.queries, c.width, extra=extra)
        self.branching = Branching(c.one_to_many, c.queries)
        self.decoder = DeformableDecoder(c.decoder_layers, c.width, points=c.decoder_points, **c.layer_sizes)
        # One head for all layers; or one per layer and, last, that of the tokens.
        count = c.decoder_layers + c.two_stage if c.refine else 1
        heads = [DetectionHead(c.width, classes) for _ in range(count)]
        if not c.two_stage:  # points have no size: initial boxes span 0.12 of the image
            heads[0].box_head.start_at_zero(size_bias=-2.0)
        self.heads = nn.ModuleList(heads)
        if c.two_stage:
            self.class_agnostic = (f"heads.{count - 1}.class_head",)

    def decode(
        self, features: Sequence[Float[Tensor, "B _ _ _"]], sizes: PaddedSizes
    ) -> tuple[Predictions, ...]:
        """Predict from the backbone's last maps; with two stages, `Proposals` come first."""
        maps = self.neck(features[self.config.maps_read])
        levels = token_levels(maps, sizes)
        memory = self.encoder(flatten_maps(maps), levels, recompute=self.recomputes)
        predictions: list[Predictions] = []
        if self.config.two_stage:
            *queries, logits, boxes = self.start(memory, levels, self.heads[-1])
            predictions.append(Proposals(logits, to_pixels(boxes, sizes.sizes_hw), class_agnostic=True))
        else:
            queries = self.start(memory.shape[0])
        decoded = self.decoder(
            *queries,
            memory,
            levels,
            self._layer_heads(),
            refine=self.config.refine,
            look_forward=self.config.look_forward,
            hidden=self.branching.hide(queries[0]),
            recompute=self.recomputes,
        )
        stages = (Predictions(logits, to_pixels(boxes, sizes.sizes_hw)) for logits, boxes in decoded)
        return *predictions, *self.branching.split(stages)

    def _layer_heads(self) -> list[nn.Module]:
        layers = self.config.decoder_layers
        return list(self.heads[:layers]) if self.config.refine else [self.heads[0]] * layers


class PointQueries(nn.Module):
    """Learned queries: content and position, from which the reference point is predicted."""

    def __init__(self, queries: int, width: int, *, extra: int = 0) -> None:
        super().__init__()
        self.embedding = LearnedQueries(queries, 2 * width, normalize=False, extra=extra)
        self.reference_points = Head(width, 2)
        nn.init.xavier_uniform_(self.reference_points.weight)
        nn.init.zeros_(self.reference_points.bias)

    def forward(
        self, images: int
    ) -> tuple[Float[Tensor, "B N D"], Float[Tensor, "B N D"], Float[Tensor, "B N 2"]]:
        """Return content, position and reference points (x, y) in normalized coordinates."""
        position, content = self.embedding(images).chunk(2, dim=-1)
        return content, position, self.reference_points(position).sigmoid()


class ProposedQueries(nn.Module):
    """Queries from the boxes of the highest-scoring tokens (section 4.2).

    A head of the tokens' own predicts a box from every token's anchor. Its first logit, trained to separate
    objects of any class from background, ranks them. Queries depend on their boxes alone: no gradient passes
    from them to the tokens, and their content is the other half of the same embedding, or a learned vector.
    `extra` tokens more are taken in training.

    Tokens without a usable anchor compete as well, as in the authors' code: their features are zero, so
    early in training they are among the best.
    """

    def __init__(self, queries: int, width: int, *, content: Literal["box", "learned"], extra: int) -> None:
        super().__init__()
        self.queries, self.extra = queries, extra
        self.projection, self.norm = nn.Linear(width, width), nn.LayerNorm(width)
        self.position = BoxPosition(2 * width)
        learned = content == "learned"
        self.content = LearnedQueries(queries, width, normalize=False, extra=extra) if learned else None
        xavier_matrices(self.projection)

    def forward(
        self, memory: Float[Tensor, "B T D"], levels: TokenLevels, head: nn.Module
    ) -> tuple[
        Float[Tensor, "B N D"],
        Float[Tensor, "B N D"],
        Float[Tensor, "B N 4"],
        Float[Tensor, "B T K"],
        Float[Tensor, "B T 4"],
    ]:
        """Return content, position and boxes of the queries, then logits and boxes of all tokens."""
        anchors, usable = grid_anchors(levels)
        tokens = self.norm(self.projection(memory.masked_fill(~usable.unsqueeze(-1), 0)))
        logits, boxes = head(tokens, anchors)
        boxes = settle(boxes, usable)
        count = self.queries + (self.extra if self.training else 0)
        reference = take(boxes, best_tokens(logits[..., 0], count)).detach()
        position, content = self.position(reference).chunk(2, dim=-1)
        if self.content is not None:  # the other half is left unread, as in H-DETR's code
            content = self.content(memory.shape[0])[:, : reference.shape[1]]
        return content, position, reference, logits, boxes
