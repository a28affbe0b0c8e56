"""Anchor DETR: queries are anchor points, each with several patterns.

Wang et al.: Anchor DETR, Query Design for Transformer-Based Object Detection, AAAI 2022,
https://arxiv.org/abs/2109.07107. Where the paper and the authors' code (megvii-research/AnchorDETR) differ,
this is the code.

    B images   L levels   N queries   P anchor points   T cells of a map   D width
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from qdet.backbones import Backbone
from qdet.backbones.unread import freeze_unread
from qdet.detectors.anchor_detr.anchor_points import anchor_points
from qdet.detectors.anchor_detr.level_attention import LevelLayer, OverLevels
from qdet.detectors.anchor_detr.row_column_attention import (
    RowColumnCrossAttention,
    RowColumnSelfAttention,
    axis_positions,
)
from qdet.detectors.detector import Detector, check_at_least, check_split
from qdet.detectors.transformer_config import TransformerConfig
from qdet.errors import ConfigError
from qdet.layers.attention.multi_head import CrossAttention, SelfAttention
from qdet.layers.conv.multi_level_neck import Level
from qdet.layers.heads import BoxHead, predict_layers, sigmoid_class_head
from qdet.layers.mlp import MLP
from qdet.layers.one_to_many.branches import Branching, parts
from qdet.layers.padding import padding_mask
from qdet.layers.position import embed_reference
from qdet.layers.queries import LearnedQueries
from qdet.layers.reference_points import boxes_from
from qdet.layers.transformer.layers import DecoderLayer, EncoderLayer, run
from qdet.types import PaddedSizes, Predictions


@dataclass(frozen=True, kw_only=True)
class AnchorDETRConfig(TransformerConfig):
    """Anchor DETR; the defaults are the paper's ResNet-50, `backbone.dilate_c5` makes it the DC5 one."""

    ffn: int = 1024
    dropout: float = 0.0
    points: int = 300
    """Anchor points of an image."""
    patterns: int = 3
    """Queries per anchor point: the most objects found around one point."""
    anchors: Literal["learned", "grid"] = "learned"
    """Learned anchor points, or fixed ones on a square grid."""
    attention: Literal["row_column", "plain"] = "row_column"
    """Attention to columns and rows of the map, or to each of its cells."""
    levels: Literal[1, 3] = 1
    """Backbone maps read: the last, or the last three, of which two must have the same stride."""
    encoder_layers: int = 6
    """Encoder layers; with 3 levels every second one is attention between levels."""
    detections: int = 100
    """Detections per image: the best pairs of query and class."""

    def __post_init__(self) -> None:
        """Raise ConfigError for settings that cannot be built."""
        super().__post_init__()
        check_at_least(self, 1, "points", "patterns", "detections")
        check_at_least(self, 0, "encoder_layers")
        check_split(self, "width", 32, "the groups of its normalisation")
        if self.anchors == "grid" and math.isqrt(self.points) ** 2 != self.points:
            raise ConfigError(f"--detector.points must be a square number for a grid, got {self.points}")
        if self.anchors == "grid" and self.one_to_many.kind != "none":
            raise ConfigError(
                "--detector.one-to-many.kind must be none for --detector.anchors grid: further queries would "
                "start like the first ones"
            )

    @property
    def queries(self) -> int:
        """Queries per image."""
        return self.points * self.patterns

    def build(self, classes: int) -> "AnchorDETR":
        """Build the detector with fresh weights; the caller loads pre-trained ones."""
        return AnchorDETR(self, freeze_unread(self.backbone.build(), slice(-self.levels, None)), classes)

    def demo(self) -> "AnchorDETRConfig":
        """Return a detector small enough to learn 128-pixel images on two CPU cores."""
        return replace(
            self,
            **self.demo_sizes(),
            points=16,
            patterns=2,
            encoder_layers=2,
            detections=30,
        )


class AnchorDETR(Detector):
    """A backbone, an encoder, and a decoder whose queries all predict around their anchor points.

    Anchor points are the same in all layers, so their embeddings are computed once; the authors' code
    recomputes them in every layer, with the same result.
    """

    def __init__(self, config: AnchorDETRConfig, backbone: Backbone, classes: int) -> None:
        super().__init__()
        self.config = config
        self.backbone = backbone
        self.detections = config.detections
        width, levels = config.width, config.levels
        if levels == 3:
            _check_strides(backbone.strides[-3:])
        read = enumerate(backbone.channels[-levels:])
        self.neck = nn.ModuleList(
            Level(channels, width, 32, coarser=levels == 3 and i == 0) for i, channels in read
        )
        self.embed_point = MLP(width, width, width, 2)
        self.embed_axis = MLP(width, width, width, 2) if config.attention == "row_column" else None
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.class_head = sigmoid_class_head(width, classes)
        self.box_head = BoxHead(width)
        self.box_head.start_at_zero(size_bias=-2.0)

    def decode(
        self, features: Sequence[Float[Tensor, "B _ _ _"]], sizes: PaddedSizes
    ) -> tuple[Predictions, ...]:
        """Predict from the coarsest map, or from the three coarsest."""
        levels = self.config.levels
        maps = [level(x) for level, x in zip(self.neck, features[-levels:], strict=True)]
        x = torch.stack(maps, dim=1).flatten(0, 1)  # [B L, D, h, w]
        mask = padding_mask(sizes, *x.shape[-2:]).repeat_interleave(levels, dim=0)
        x = x.flatten(2).mT
        places = self._places(mask, x)
        memory = self.encoder(x, places, recompute=self.recomputes)
        points = self.decoder.points(1)
        position, to_image = self._context(points, memory, places)
        outputs = self.decoder(sizes.sizes_hw.shape[0], position, to_image, recompute=self.recomputes)
        reference = self.decoder.of_patterns(points)
        stages = predict_layers(
            outputs, self.class_head, lambda x: boxes_from(self.box_head(x), reference), sizes.sizes_hw
        )
        return self.decoder.branching.split(stages)

    def _places(self, mask: Bool[Tensor, "BL h w"], like: Tensor) -> tuple[Tensor, ...]:
        """Return the positions and mask that attention within the maps reads."""
        x, y = axis_positions(mask)
        if self.embed_axis is not None:
            row, col = (self.embed_axis(_embed(axis.unsqueeze(-1), like)) for axis in (x, y))
            return row, col, mask
        centres = torch.stack(torch.broadcast_tensors(x.unsqueeze(1), y.unsqueeze(2)), dim=-1)
        return self.embed_point(_embed(centres, like)).flatten(1, 2), mask.flatten(1)

    def _context(
        self, points: Float[Tensor, "1 P 2"], memory: Float[Tensor, "BL T D"], places: tuple[Tensor, ...]
    ) -> tuple[Float[Tensor, "1 N D"], tuple[Tensor, ...]]:
        """Return the queries' positions, pattern by pattern, and the cross-attention's inputs."""
        spread = self.decoder.of_patterns
        position = spread(self.embed_point(_embed(points, memory)))
        if self.embed_axis is None:
            of_cells, mask = places
            return position, (position, memory, memory + of_cells, mask)
        row, col, mask = places
        x, y = (self.embed_axis(_embed(axis, memory)) for axis in points.split(1, dim=-1))
        memory = memory.unflatten(1, mask.shape[1:])
        keys = memory + row.unsqueeze(1), memory + col.unsqueeze(2)
        return position, (spread(x), spread(y), memory, *keys, mask)


class Encoder(nn.Module):
    """Layers of attention within each map; with several maps, every second one is attention between them.

    Unlike DETR's, its layers keep torch's own initialisation.
    """

    def __init__(self, config: AnchorDETRConfig) -> None:
        super().__init__()
        width, heads, dropout = config.width, config.heads, config.dropout
        kind = RowColumnSelfAttention if config.attention == "row_column" else SelfAttention
        between = config.encoder_layers // 2 if config.levels > 1 else 0
        self.layers = nn.ModuleList(
            EncoderLayer(kind(width, heads=heads, dropout=dropout), width, config.ffn, dropout=dropout)
            for _ in range(config.encoder_layers - between)
        )
        self.level_layers = nn.ModuleList(
            LevelLayer(width, config.ffn, heads=heads, dropout=dropout) for _ in range(between)
        )
        self.level = LearnedQueries(config.levels, width, normalize=False) if between else None

    def forward(
        self, x: Float[Tensor, "BL T D"], places: tuple[Tensor, ...], *, recompute: bool
    ) -> Float[Tensor, "BL T D"]:
        """Return the memory that queries read."""
        level = None if self.level is None else self.level(1)
        for i, layer in enumerate(self.layers):
            x = run(layer, x, *places, recompute=recompute)
            if i < len(self.level_layers):
                x = run(self.level_layers[i], x, level, recompute=recompute)
        return x


class Decoder(nn.Module):
    """Queries, one per pattern and anchor point; no norm follows the layers."""

    def __init__(self, config: AnchorDETRConfig) -> None:
        super().__init__()
        width, heads, dropout = config.width, config.heads, config.dropout
        kind = RowColumnCrossAttention if config.attention == "row_column" else CrossAttention
        self.layers = nn.ModuleList(
            DecoderLayer(
                SelfAttention(width, heads=heads, dropout=dropout),
                OverLevels(kind(width, heads=heads, dropout=dropout), width, config.levels),
                width,
                config.ffn,
                dropout=dropout,
            )
            for _ in range(config.decoder_layers)
        )
        self.patterns = LearnedQueries(config.patterns, width, normalize=False)
        self.points = anchor_points(
            config.points,
            learned=config.anchors == "learned",
            extra=config.one_to_many.extra(config.points),
        )
        self.config = config
        self.branching = Branching(config.one_to_many, config.queries)

    def forward(
        self, images: int, position: Float[Tensor, "1 N D"], to_image: tuple[Tensor, ...], *, recompute: bool
    ) -> list[Float[Tensor, "B N D"]]:
        """Return every layer's queries."""
        patterns, c = self.patterns(images), self.config
        sizes = [part.shape[1] // c.patterns for part in parts(position, c.queries, c.one_to_many)]
        x, outputs = torch.cat([patterns.repeat_interleave(size, dim=1) for size in sizes], dim=1), []
        among = (position, self.branching.hide(x))
        for layer in self.layers:
            x = run(layer, x, among, to_image, recompute=recompute)
            outputs.append(x)
        return outputs

    def of_patterns(self, points: Float[Tensor, "1 P _"]) -> Float[Tensor, "1 N _"]:
        """Repeat what belongs to anchor points for every pattern, within each set of queries."""
        c = self.config
        return torch.cat([s.repeat(1, c.patterns, 1) for s in parts(points, c.points, c.one_to_many)], dim=1)


def _embed(points: Float[Tensor, "*n k"], like: Float[Tensor, "... D"]) -> Float[Tensor, "*n D"]:
    """Return sine embeddings in the width and dtype of `like`."""
    return embed_reference(points, like.shape[-1]).to(like.dtype)


def _check_strides(strides: Sequence[int]) -> None:
    if tuple(s // strides[0] for s in strides) != (1, 2, 2):
        raise ConfigError(
            "--detector.levels 3 needs a backbone whose last three strides are s, 2 s and 2 s, as with "
            f"--detector.backbone.dilate-c5 True; this one's are {', '.join(map(str, strides))}"
        )
