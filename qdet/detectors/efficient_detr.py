"""Efficient DETR: queries start from dense proposals, so that one decoder layer is enough.

Yao, Ai, Li, Zhang: Efficient DETR, Improving End-to-End Object Detector with Dense Prior, 2021,
https://arxiv.org/abs/2104.01318. Its code was never released; choices where the paper is silent are
explained where they are made.

    B images   N queries   K classes   T tokens of all levels   D width
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from qdet.backbones import Backbone
from qdet.backbones.unread import freeze_unread
from qdet.detectors.detector import Detector, check_at_least
from qdet.detectors.transformer_config import DeformableConfig
from qdet.errors import ConfigError
from qdet.layers.conv.multi_level_neck import MultiLevelNeck
from qdet.layers.heads import DetectionHead
from qdet.layers.mlp import FeedForward
from qdet.layers.queries import LearnedQueries, first_boxes
from qdet.layers.reference_points import to_pixels
from qdet.layers.token_levels import TokenLevels, flatten_maps, token_levels
from qdet.layers.transformer.box_position import BoxPosition
from qdet.layers.transformer.deformable import DeformableDecoder, DeformableEncoder
from qdet.layers.transformer.layers import Residual, xavier_matrices
from qdet.layers.transformer.token_proposals import best_tokens, grid_anchors, settle, take
from qdet.types import PaddedSizes, Predictions, Proposals

References = Literal["proposals", "learned", "grid", "image"]
"""Where the first references come from: the paper's section 3.2 compares them with one and six layers."""


@dataclass(frozen=True, kw_only=True)
class EfficientDETRConfig(DeformableConfig):
    """Efficient DETR; the defaults are the paper's ResNet-50 with three encoder layers (its "*" has six).

    Neck, deformable layers and their sizes are those of Deformable DETR. With one more feed-forward block
    over all tokens behind the encoder, all eight numbers of the paper are met: 159, 210, 239 and 289 billion
    multiply-accumulates of an image of 800 x 1333, and 32, 35, 51 and 54 million parameters that are not
    frozen, cut off after the point. Without the block each model is 11.65 billion short, which is what
    256 x 1024 + 1024 x 256 products of 22,223 tokens cost.
    """

    decoder_layers: int = 1
    dropout: float = 0.0
    queries: int = 100
    """Queries per image at the end of training and in evaluation."""
    proposals_start: int = 300
    """Queries per image at the start of training; their number then falls linearly."""
    encoder_layers: int = 3
    reference: References = "proposals"
    """First references: the best tokens' boxes, learned ones, a grid, or the whole image and its centre. With
    any but the first, all training has `queries` queries."""
    reference_dims: Literal[2, 4] = 4
    """Coordinates of the first references: 2 for points, 4 for boxes."""
    content: Literal["tokens", "learned"] = "tokens"
    """First content of queries: the best tokens' features, or learned vectors."""

    def __post_init__(self) -> None:
        """Raise ConfigError for settings that cannot be built."""
        super().__post_init__()
        check_at_least(self, 1, "queries", "proposals_start")
        if self.one_to_many.kind != "none":
            raise ConfigError(
                "--detector.one-to-many.kind must be none: the number of Efficient DETR's queries changes in "
                f"training, got {self.one_to_many.kind}"
            )

    @property
    def from_tokens(self) -> bool:
        """Whether both content and references are those of tokens."""
        return self.reference == "proposals" and self.content == "tokens"

    def build(self, classes: int) -> "EfficientDETR":
        """Build the detector with fresh weights; the caller loads pre-trained ones."""
        return EfficientDETR(self, freeze_unread(self.backbone.build(), self.maps_read), classes)

    def demo(self) -> "EfficientDETRConfig":
        """Return a detector small enough to learn 128-pixel images on two CPU cores."""
        return replace(
            self,
            **self.demo_sizes(),
            queries=30,
            proposals_start=60,
            encoder_layers=2,
        )


class EfficientDETR(Detector):
    """A dense part, which predicts from every token, and a sparse part, which refines the best of these.

    The dense part begins with a feed-forward block like the encoder's. The paper's costs say that there is
    one, but not where. Here whatever reads tokens reads them behind it: the dense head, the queries' content,
    and the decoder.

    Both predict with one head (section 4.2 of the paper) and have the same loss: the dense predictions are
    `Proposals` of real classes.
    """

    def __init__(self, config: EfficientDETRConfig, backbone: Backbone, classes: int) -> None:
        super().__init__()
        c = self.config = config
        self.backbone = backbone
        self.detections = c.detections
        self.neck = MultiLevelNeck(backbone.channels[c.maps_read], c.width, levels=c.levels)
        self.encoder = DeformableEncoder(c.encoder_layers, c.width, points=c.encoder_points, **c.layer_sizes)
        self.dense = Residual(FeedForward(c.width, c.ffn, dropout=c.dropout), c.width, dropout=c.dropout)
        xavier_matrices(self.dense)
        self.head = DetectionHead(c.width, classes)
        self.position = BoxPosition(c.width)
        self.start = QueryStart(c)
        self.decoder = DeformableDecoder(c.decoder_layers, c.width, points=c.decoder_points, **c.layer_sizes)

    @property
    def proposals(self) -> int:
        """Current number of tokens that become queries.

        In the paper it falls linearly from 300 to 100 over training. Evaluation always uses the last number,
        since it measures the final detector.
        """
        if not self.config.from_tokens:
            return self.config.queries
        first, last = self.config.proposals_start, self.config.queries
        return round(first + (last - first) * (self.progress if self.training else 1.0))

    def decode(
        self, features: Sequence[Float[Tensor, "B _ _ _"]], sizes: PaddedSizes
    ) -> tuple[Predictions, ...]:
        """Predict from the backbone's last maps: densely first, then from the best tokens, layer by layer."""
        maps = self.neck(features[self.config.maps_read])
        levels = token_levels(maps, sizes)
        memory = self.dense(self.encoder(flatten_maps(maps), levels, recompute=self.recomputes))
        scores, proposals, content, reference = self._propose(memory, levels)
        decoded = self.decoder(
            content,
            self.position(reference),
            reference,
            memory,
            levels,
            [self.head] * self.config.decoder_layers,
            refine=True,
            recompute=self.recomputes,
        )
        sparse = (Predictions(logits, to_pixels(boxes, sizes.sizes_hw)) for logits, boxes in decoded)
        return Proposals(scores, to_pixels(proposals, sizes.sizes_hw)), *sparse

    def _propose(
        self, memory: Float[Tensor, "B T D"], levels: TokenLevels
    ) -> tuple[
        Float[Tensor, "B T K"], Float[Tensor, "B T 4"], Float[Tensor, "B N D"], Float[Tensor, "B N _"]
    ]:
        """Return logits and boxes of all tokens, then content and references of queries.

        Anchors are Deformable DETR's, since the paper builds on its encoder. Chosen here:

        - Tokens without a usable anchor are ranked last; in Deformable DETR they compete although their
          features are zero, which wastes queries early in training.
        - A token's score is that of its best class, because dense and sparse part share a class head.
        - Its features, with gradient, are the query's content: the paper's dense prior. Its box is detached
          in all four coordinates, like every refined reference.
        - A learned projection of the box's sine embedding is the query's position, at the width that
          matches the paper's number of parameters.
        """
        anchors, usable = grid_anchors(levels)
        tokens = memory.masked_fill(~usable.unsqueeze(-1), 0)
        logits, boxes = self.head(tokens, anchors)
        boxes = settle(boxes, usable)
        scores = logits.amax(-1).masked_fill(~usable, -torch.inf)
        best = best_tokens(scores, self.proposals)
        return logits, boxes, *self.start(take(tokens, best), take(boxes, best).detach())


class QueryStart(nn.Module):
    """What queries start from: the chosen tokens and their boxes, or what an ablation replaces them by."""

    def __init__(self, config: EfficientDETRConfig) -> None:
        super().__init__()
        dims, kind = config.reference_dims, config.reference
        self.dims = dims
        self.content = (
            LearnedQueries(config.queries, config.width, normalize=False)
            if config.content == "learned"
            else None
        )
        self.learned = LearnedQueries(config.queries, dims, normalize=False) if kind == "learned" else None
        fixed = first_boxes(config.queries, kind)[:, :dims] if kind in ("grid", "image") else None
        self.register_buffer("fixed", fixed, persistent=False)
        self.fixed: Tensor | None

    def forward(
        self, tokens: Float[Tensor, "B N D"], boxes: Float[Tensor, "B N 4"]
    ) -> tuple[Float[Tensor, "B N D"], Float[Tensor, "B N _"]]:
        """Return content and references, (x, y) or (x, y, w, h) in normalized coordinates."""
        images = tokens.shape[0]
        content = tokens if self.content is None else self.content(images)
        if self.learned is not None:
            return content, self.learned(images).sigmoid()
        if self.fixed is not None:
            return content, self.fixed.expand(images, -1, -1)
        return content, boxes[..., : self.dims]
