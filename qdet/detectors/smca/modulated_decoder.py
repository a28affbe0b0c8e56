"""SMCA's decoder: cross-attention modulated by each query's Gaussian prior.

Gao et al.: Fast Convergence of DETR with Spatially Modulated Co-Attention, ICCV 2021,
https://arxiv.org/abs/2101.07448, section 3.

    B images   N queries   D width
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from qdet.detectors.smca.gaussian_prior import GaussianPrior, Sharpness
from qdet.detectors.smca.scale_selection import ScaleSelectingAttention
from qdet.detectors.smca.scale_tokens import ScaleTokens
from qdet.layers.attention.multi_head import CrossAttention, SelfAttention
from qdet.layers.heads import Head, PerceptronHead
from qdet.layers.one_to_many.branches import Branching
from qdet.layers.one_to_many.config import NO_BRANCHES, OneToManyConfig
from qdet.layers.queries import LearnedQueries
from qdet.layers.transformer.layers import DecoderLayer, run, xavier_matrices


class ModulatedDecoder(nn.Module):
    """Queries with zero content and a learned position, from which their attention centres are predicted.

    All layers use the first layer's centres, not detached. Each layer predicts its heads' offsets from the
    centre and their sharpness.
    """

    def __init__(
        self,
        queries: int,
        width: int,
        layers: int,
        strides: Sequence[int],
        *,
        one_to_many: OneToManyConfig = NO_BRANCHES,
        heads: int,
        ffn: int,
        dropout: float = 0.0,
        sharpness: Sharpness = "independent",
        head_shared: bool = False,
        select_scales: bool = True,
    ) -> None:
        super().__init__()
        priors = [
            GaussianPrior(width, strides, heads=heads, sharpness=sharpness, head_shared=head_shared)
            for _ in range(layers)
        ]
        self.layers = nn.ModuleList(
            ModulatedLayer(width, prior, heads=heads, ffn=ffn, dropout=dropout, select_scales=select_scales)
            for prior in priors
        )
        self.center_head = PerceptronHead(width, 2, layers=3)
        self.norm = nn.LayerNorm(width)
        xavier_matrices(self)
        for prior in priors:
            prior.reset_parameters()
        self.branching = Branching(one_to_many, queries)
        extra = one_to_many.extra(queries)
        self.position = LearnedQueries(queries, width, normalize=False, extra=extra)

    def forward(
        self, memory: ScaleTokens, sizes_hw: Int[Tensor, "B 2"], *, recompute: bool = False
    ) -> tuple[list[Float[Tensor, "B N D"]], Float[Tensor, "B N 2"]]:
        """Return every layer's queries after the norm that all share, and the centres before the sigmoid."""
        position = self.position(sizes_hw.shape[0])
        logits = self.center_head(self.layers[0].guide(position))  # type: ignore[operator]
        to_image = (memory, memory.x + memory.position, logits.sigmoid(), sizes_hw)
        x, outputs = position.new_zeros(position.shape), []
        among = (position, self.branching.hide(x))
        for layer in self.layers:
            x = run(layer, x, among, to_image, recompute=recompute)
            outputs.append(self.norm(x))
        return outputs, logits


class ModulatedLayer(DecoderLayer):
    """A decoder layer that first predicts where to attend.

    It does so from the normalised sum of a query's content and position. With several scales, each query
    also predicts a weight per scale, or weighs them equally without `select_scales`.
    """

    def __init__(
        self,
        width: int,
        prior: GaussianPrior,
        *,
        heads: int,
        ffn: int,
        dropout: float,
        select_scales: bool = True,
    ) -> None:
        scales = len(prior.strides)
        attention = CrossAttention if scales == 1 else ScaleSelectingAttention
        super().__init__(
            SelfAttention(width, heads=heads, dropout=dropout),
            attention(width, heads=heads, dropout=dropout),
            width,
            ffn,
            dropout=dropout,
        )
        self.guide = nn.LayerNorm(width)
        self.prior = prior
        self.selection = Head(width, scales) if scales > 1 and select_scales else None

    def forward(
        self, x: Float[Tensor, "B N D"], among_queries: Sequence[Any], to_image: Sequence[Any]
    ) -> Float[Tensor, "B N D"]:
        """Return the queries updated.

        `among_queries` is their positions and which must not see which; `to_image` the memory, its keys, the
        queries' centres in normalized coordinates and the images' heights and widths.
        """
        (position, _), (memory, key, centers, sizes_hw) = among_queries, to_image
        guide = self.guide(x + position)
        priors = self.prior(guide, centers, sizes_hw, memory.shapes_hw)
        masks = [
            prior.masked_fill(mask[:, None, None], -torch.inf)
            for prior, mask in zip(priors, memory.split(memory.mask), strict=True)
        ]
        if len(masks) == 1:
            return super().forward(x, among_queries, (position, memory.x, key, *masks))
        if self.selection is None:
            shares = guide.new_full((*guide.shape[:2], len(masks)), 1 / len(masks))
        else:
            shares = self.selection(guide).softmax(-1)
        return super().forward(x, among_queries, (position, memory.x, key, masks, shares))
