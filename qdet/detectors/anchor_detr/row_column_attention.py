"""Row-column decoupled attention: the attention map is an outer product of a row and a column.

Anchor DETR (Wang et al., AAAI 2022, https://arxiv.org/abs/2109.07107), section 3.4. Where the paper and the
authors' code (megvii-research/AnchorDETR) differ, this is the code.

    B images   N queries   h, w feature map   M heads   D width   d = D / M
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.compiler import is_exporting

from qdet.layers.attention.multi_head import PackedAttention, split_heads


class RowColumnAttention(PackedAttention):
    """W_o sum_y A_col[y] sum_x A_row[x] V[y, x]: attention to h + w places instead of h w.

        A_row = softmax(Q_row K_row^T / sqrt(d)),   K_row = mean over y of W key_row    (w keys)
        A_col = softmax(Q_col K_col^T / sqrt(d)),   K_col = mean over x of W key_col    (h keys)

    The means include padded cells, as in the authors' code, so results depend on the padding. The rows of
    the stacked weights are those of Q_row, Q_col, K_row, K_col and V.
    """

    def __init__(self, dim: int, *, heads: int = 8, dropout: float = 0.0) -> None:
        super().__init__(dim, 5, heads=heads, dropout=dropout)

    def forward(
        self,
        query_row: Float[Tensor, "B N D"],
        query_col: Float[Tensor, "B N D"],
        key_row: Float[Tensor, "B h w D"],
        key_col: Float[Tensor, "B h w D"],
        value: Float[Tensor, "B h w D"],
        mask: Bool[Tensor, "B h w"],
    ) -> Float[Tensor, "B N D"]:
        """Return what every query gathers; no query sees columns and rows where `mask` is True."""
        row, col, v = self._attend_axes(query_row, query_col, key_row, key_col, value, mask)
        v = v.unflatten(-1, (self.heads, -1)).permute(0, 3, 1, 2, 4)  # [B, M, h, w, d]
        return self.out(contract(row, col, v).transpose(1, 2).flatten(2))

    def weights(
        self,
        query_row: Tensor,
        query_col: Tensor,
        key_row: Tensor,
        key_col: Tensor,
        value: Tensor,
        mask: Tensor,
    ) -> Float[Tensor, "B M N K"]:
        """Return how much each head of a query attends to each of the h w cells, row by row.

        Arguments are those of `forward`.
        """
        row, col, _ = self._attend_axes(query_row, query_col, key_row, key_col, value, mask)
        return (col.unsqueeze(-1) * row.unsqueeze(-2)).flatten(-2)

    def _attend_axes(
        self,
        query_row: Tensor,
        query_col: Tensor,
        key_row: Tensor,
        key_col: Tensor,
        value: Tensor,
        mask: Tensor,
    ) -> tuple[Float[Tensor, "B M N w"], Float[Tensor, "B M N h"], Float[Tensor, "B h w D"]]:
        """Return the weights of columns and of rows, and the projected values."""
        parts = zip(self.qkv_weight.chunk(5), self.qkv_bias.chunk(5), strict=True)
        inputs = (query_row, query_col, key_row, key_col, value)
        q_row, q_col, k_row, k_col, v = (F.linear(x, *part) for x, part in zip(inputs, parts, strict=True))
        row = self._weights(q_row, k_row.mean(1), mask[:, 0])
        col = self._weights(q_col, k_col.mean(2), mask[:, :, 0])
        return row, col, v

    def _weights(
        self, q: Float[Tensor, "B N D"], k: Float[Tensor, "B n D"], mask: Bool[Tensor, "B n"]
    ) -> Float[Tensor, "B M N n"]:
        """Return how much each query attends to each place of one axis."""
        q, k = split_heads(q, self.heads), split_heads(k, self.heads)
        logits = (q * q.shape[-1] ** -0.5) @ k.mT
        weights = logits.masked_fill(mask[:, None, None], -torch.inf).softmax(-1)
        return F.dropout(weights, self.dropout, self.training)


class RowColumnSelfAttention(nn.Module):
    """Row-column attention of the cells of a map to each other."""

    def __init__(self, dim: int, *, heads: int = 8, dropout: float = 0.0) -> None:
        super().__init__()
        self.attention = RowColumnAttention(dim, heads=heads, dropout=dropout)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        position_row: Float[Tensor, "B w D"],
        position_col: Float[Tensor, "B h D"],
        mask: Bool[Tensor, "B h w"],
    ) -> Float[Tensor, "B T D"]:
        """Return the update of `x`, the cells row by row."""
        value = x.unflatten(1, mask.shape[1:])
        row, col = value + position_row.unsqueeze(1), value + position_col.unsqueeze(2)
        return self.attention(row.flatten(1, 2), col.flatten(1, 2), row, col, value, mask)


class RowColumnCrossAttention(nn.Module):
    """Row-column attention of queries at anchor points to the cells of a map."""

    def __init__(self, dim: int, *, heads: int = 8, dropout: float = 0.0) -> None:
        super().__init__()
        self.attention = RowColumnAttention(dim, heads=heads, dropout=dropout)

    def forward(
        self,
        x: Float[Tensor, "B N D"],
        query_x: Float[Tensor, "#B N D"],
        query_y: Float[Tensor, "#B N D"],
        memory: Float[Tensor, "B h w D"],
        key_row: Float[Tensor, "B h w D"],
        key_col: Float[Tensor, "B h w D"],
        mask: Bool[Tensor, "B h w"],
    ) -> Float[Tensor, "B N D"]:
        """Return the update of `x`; the keys are memory + position, which every layer shares."""
        return self.attention(x + query_x, x + query_y, key_row, key_col, memory, mask)

    def weights(
        self,
        x: Tensor,
        query_x: Tensor,
        query_y: Tensor,
        memory: Tensor,
        key_row: Tensor,
        key_col: Tensor,
        mask: Tensor,
    ) -> Float[Tensor, "B M N K"]:
        """Return how much each head of a query attends to each cell, for the arguments of `forward`."""
        return self.attention.weights(x + query_x, x + query_y, key_row, key_col, memory, mask)


def contract(
    row: Float[Tensor, "B M N w"], col: Float[Tensor, "B M N h"], value: Float[Tensor, "B M h w d"]
) -> Float[Tensor, "B M N d"]:
    """Sum `value` over both axes with separate weights, the longer axis first.

    The intermediate is then as small as possible: N min(h, w) d numbers per head. An exported graph is for
    maps of all shapes and sums over columns first.
    """
    if not is_exporting() and row.shape[-1] < col.shape[-1]:
        row, col, value = col, row, value.transpose(2, 3)
    sums = row @ value.transpose(2, 3).flatten(-2)  # [B, M, N, h d]
    return (col.unsqueeze(-2) @ sums.unflatten(-1, (col.shape[-1], -1))).squeeze(-2)


def axis_positions(mask: Bool[Tensor, "B h w"]) -> tuple[Float[Tensor, "B w"], Float[Tensor, "B h"]]:
    """Return x of column centres and y of row centres, in normalized coordinates of the unpadded image.

    Under the padding they repeat those of the last column and row. Always float32, as in the authors' code.
    """
    counts = ((~mask[:, 0]).cumsum(1).float(), (~mask[:, :, 0]).cumsum(1).float())
    x, y = ((count - 0.5) / count[:, -1:] for count in counts)
    return x, y
