"""A transformer whose attention to the image is deformable.

Deformable DETR (Zhu et al., ICLR 2021, https://arxiv.org/abs/2010.04159), section 4.1; Efficient DETR has
the same layers in different sizes.

    B images   N queries   K classes   T tokens of all levels   D width
"""

from collections.abc import Sequence
from typing import Literal, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from qdet.layers.attention.deformable import (
    DeformableAttention,
    DeformableCrossAttention,
    DeformableSelfAttention,
)
from qdet.layers.attention.multi_head import SelfAttention
from qdet.layers.heads import DetectionHead
from qdet.layers.queries import LearnedQueries
from qdet.layers.reference_points import boxes_from
from qdet.layers.token_levels import TokenLevels, cell_centers, sine_tokens
from qdet.layers.transformer.layers import DecoderLayer, EncoderLayer, run, xavier_matrices

LookForward = Literal["once", "twice"]
"""Whether a layer's box loss also reaches the layer before it (DINO, ICLR 2023, section 3.5)."""


class DeformableEncoder(nn.Module):
    """Layers of deformable attention among the cells of all levels.

    Every layer adds the tokens' positions: a sine embedding plus a learned one of the level. The former's
    `temperatures_yx` and `offset` are those of `sine_map`.
    """

    def __init__(
        self,
        layers: int,
        dim: int,
        *,
        heads: int,
        levels: int,
        points: int,
        ffn: int,
        dropout: float,
        temperatures_yx: tuple[float, float] = (10_000.0, 10_000.0),
        offset: float = -0.5,
    ) -> None:
        super().__init__()
        self.temperatures_yx, self.offset = temperatures_yx, offset
        self.layers = nn.ModuleList(
            EncoderLayer(
                DeformableSelfAttention(dim, heads=heads, levels=levels, points=points),
                dim,
                ffn,
                dropout=dropout,
            )
            for _ in range(layers)
        )
        _initialize(self)
        self.level_embedding = LearnedQueries(levels, dim, normalize=False)

    def forward(
        self, x: Float[Tensor, "B T D"], levels: TokenLevels, *, recompute: bool = False
    ) -> Float[Tensor, "B T D"]:
        """Return the memory that queries read."""
        places = sine_tokens(levels, x.shape[-1], temperatures_yx=self.temperatures_yx, offset=self.offset)
        names = self.level_embedding(1).unbind(1)
        position = torch.cat([p.to(n.dtype) + n for p, n in zip(places, names, strict=True)], dim=1)
        reference = cell_centers(levels)
        for layer in self.layers:
            x = run(layer, x, position, reference, levels, recompute=recompute)
        return x


class DeformableDecoder(nn.Module):
    """Layers of attention between queries, then deformable attention to the tokens; no norm follows them."""

    def __init__(
        self, layers: int, dim: int, *, heads: int, levels: int, points: int, ffn: int, dropout: float
    ) -> None:
        super().__init__()
        self.layers = deformable_decoder_layers(
            layers, dim, heads=heads, levels=levels, points=points, ffn=ffn, dropout=dropout
        )

    def forward(
        self,
        x: Float[Tensor, "B N D"],
        position: Float[Tensor, "B N D"],
        reference: Float[Tensor, "B N _"],
        memory: Float[Tensor, "B T D"],
        levels: TokenLevels,
        heads: Sequence[nn.Module],
        *,
        refine: bool,
        look_forward: LookForward = "once",
        hidden: Bool[Tensor, "#B N N"] | None = None,
        recompute: bool = False,
    ) -> list[tuple[Float[Tensor, "B N K"], Float[Tensor, "B N 4"]]]:
        """Return the logits and boxes that each layer's head predicts from its queries.

        With `refine` a layer's boxes, detached, are the references of the next; otherwise all layers share
        the first ones, which may be points. Boxes are (x, y, w, h) in normalized coordinates. Looking forward
        twice, a layer's prediction refines the undetached boxes of the one before. `hidden` is True where a
        query must not see another.
        """
        predictions, before = [], reference
        for layer, head in zip(self.layers, heads, strict=True):
            x = run(layer, x, (position, hidden), (position, reference, memory, levels), recompute=recompute)
            logits, boxes = head(x, reference)
            refined = boxes
            if look_forward == "twice" and predictions:
                refined = boxes_from(cast(DetectionHead, head).box_head(x), before)
            predictions.append((logits, refined))
            if refine:
                before, reference = boxes, boxes.detach()
        return predictions


def deformable_decoder_layers(
    count: int, dim: int, *, heads: int, levels: int, points: int, ffn: int, dropout: float
) -> nn.ModuleList:
    """Make a decoder's layers; they read (position, hidden) and (position, reference, memory, levels)."""
    layers = nn.ModuleList(
        DecoderLayer(
            SelfAttention(dim, heads=heads, dropout=dropout),
            DeformableCrossAttention(dim, heads=heads, levels=levels, points=points),
            dim,
            ffn,
            dropout=dropout,
        )
        for _ in range(count)
    )
    _initialize(layers)
    return layers


def _initialize(part: nn.Module) -> None:
    """Draw matrices from Xavier's distribution, except in deformable attention, which has its own start."""
    xavier_matrices(part)
    for module in part.modules():
        if isinstance(module, DeformableAttention):
            module.reset_parameters()
