"""Attention between levels: what maps of one size from several depths tell each other, place by place.

Anchor DETR's multi-level variant (Wang et al., AAAI 2022, https://arxiv.org/abs/2109.07107, and its code).
The L levels of an image stand side by side in the batch. The authors train with one image per worker; of
more, their code lets one image's levels see another's, and this does not.

    B images   L levels   N queries   T cells of a map   D width
"""

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from qdet.layers.attention.multi_head import SelfAttention
from qdet.layers.transformer.layers import EncoderLayer


class LevelLayer(nn.Module):
    """An encoder layer whose every cell attends to the cells at its place on all levels."""

    def __init__(self, dim: int, ffn: int, *, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.layer = EncoderLayer(SelfAttention(dim, heads=heads, dropout=dropout), dim, ffn, dropout=dropout)

    def forward(self, x: Float[Tensor, "BL T D"], level: Float[Tensor, "1 L D"]) -> Float[Tensor, "BL T D"]:
        """Return the cells updated; `level` tells the levels apart as a position would."""
        cells, levels = x.shape[1], level.shape[1]
        by_place = x.unflatten(0, (-1, levels)).transpose(1, 2).flatten(0, 1)  # [B T, L, D]
        return self.layer(by_place, level).unflatten(0, (-1, cells)).transpose(1, 2).flatten(0, 1)


class OverLevels(nn.Module):
    """Cross-attention to every level on its own, with the same weights, then a product over what they say.

    The product reads the first feature of all levels, then the second, as in the authors' code. A single
    level has none.
    """

    def __init__(self, attention: nn.Module, dim: int, levels: int) -> None:
        super().__init__()
        self.attention = attention
        self.levels = levels
        self.fuse = nn.Linear(levels * dim, dim) if levels > 1 else nn.Identity()

    def forward(self, x: Float[Tensor, "B N D"], *context: Any) -> Float[Tensor, "B N D"]:
        """Return the update of `x`; `context` is what the attention reads, of B times L maps."""
        everywhere = x.unsqueeze(1).expand(-1, self.levels, -1, -1).flatten(0, 1)
        found = self.attention(everywhere, *context).unflatten(0, (-1, self.levels))
        return self.fuse(found.permute(0, 2, 3, 1).flatten(2))
