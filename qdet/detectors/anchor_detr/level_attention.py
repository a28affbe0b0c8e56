"""Attention between levels: maps of one size from several depths exchange features cell by cell.

Anchor DETR's multi-level variant (Wang et al., AAAI 2022, https://arxiv.org/abs/2109.07107, and its code).
The L levels of an image are adjacent in the batch. The authors train with one image per worker; with more,
their code mixes levels of different images, which this does not.

    B images   L levels   N queries   T cells of a map   D width
"""

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from qdet.layers.attention.multi_head import SelfAttention
from qdet.layers.transformer.layers import EncoderLayer


class LevelLayer(nn.Module):
    """An encoder layer in which each cell attends to the cells at its position on all levels."""

    def __init__(self, dim: int, ffn: int, *, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.layer = EncoderLayer(SelfAttention(dim, heads=heads, dropout=dropout), dim, ffn, dropout=dropout)

    def forward(self, x: Float[Tensor, "BL T D"], level: Float[Tensor, "1 L D"]) -> Float[Tensor, "BL T D"]:
        """Return the updated cells; `level` is the levels' positional embedding."""
        cells, levels = x.shape[1], level.shape[1]
        by_place = x.unflatten(0, (-1, levels)).transpose(1, 2).flatten(0, 1)  # [B T, L, D]
        return self.layer(by_place, level).unflatten(0, (-1, cells)).transpose(1, 2).flatten(0, 1)


class OverLevels(nn.Module):
    """Cross-attention to each level with the same weights, then a linear layer over the results.

    The linear layer reads the first feature of all levels, then the second, as in the authors' code. With a
    single level there is none.
    """

    def __init__(self, attention: nn.Module, dim: int, levels: int) -> None:
        super().__init__()
        self.attention = attention
        self.levels = levels
        self.fuse = nn.Linear(levels * dim, dim) if levels > 1 else nn.Identity()

    def forward(self, x: Float[Tensor, "B N D"], *context: Any) -> Float[Tensor, "B N D"]:
        """Return the update of `x`; `context` is what the attention reads, of B times L maps."""
        found = self.attention(self._repeat(x), *context).unflatten(0, (-1, self.levels))
        return self.fuse(found.permute(0, 2, 3, 1).flatten(2))

    def weights(self, x: Tensor, *context: Any) -> Float[Tensor, "B M N K"]:
        """Return how much each head of a query attends to each cell of all levels, for `forward`'s arguments.

        Every level counts the same here, since what the linear layer makes of them is no weight.
        """
        found = self.attention.weights(self._repeat(x), *context)  # type: ignore[operator]
        by_level = found.unflatten(0, (-1, self.levels)).movedim(1, -2)  # [B, M, N, L, T]
        return by_level.flatten(-2) / self.levels

    def _repeat(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "BL N D"]:
        return x.unsqueeze(1).expand(-1, self.levels, -1, -1).flatten(0, 1)
