"""Conditional attention: content and position have separate projections.

Meng et al.: Conditional DETR for Fast Training Convergence, ICCV 2021, https://arxiv.org/abs/2108.06152,
section 3.3. DAB-DETR (ICLR 2022) attends in the same way.

    B images   N queries   K keys   D width
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from qdet.layers.attention.multi_head import attend, attention_weights, check_heads, split_heads
from qdet.layers.transformer.layers import DecoderLayer


class ConditionalSelfAttention(nn.Module):
    """Attention of queries to each other: Q = W_qc x + W_qp p, K = W_kc x + W_kp p, V = W_v x."""

    def __init__(self, dim: int, *, heads: int = 8, dropout: float = 0.0) -> None:
        super().__init__()
        check_heads(dim, heads)
        self.heads, self.dropout = heads, dropout
        self.query_content = nn.Linear(dim, dim)
        self.query_position = nn.Linear(dim, dim)
        self.key_content = nn.Linear(dim, dim)
        self.key_position = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)
        nn.init.zeros_(self.out.bias)

    def forward(
        self,
        x: Float[Tensor, "B N D"],
        position: Float[Tensor, "#B N D"],
        hidden: Bool[Tensor, "#B N N"] | None = None,
    ) -> Float[Tensor, "B N D"]:
        """Return the update of `x`; `hidden` is True where a query must not see another."""
        q = self.query_content(x) + self.query_position(position)
        k = self.key_content(x) + self.key_position(position)
        q, k, v = (split_heads(t, self.heads) for t in (q, k, self.value(x)))
        return self.out(attend(q, k, v, mask=hidden, dropout=self.dropout if self.training else 0.0))


class ConditionalCrossAttention(nn.Module):
    """Attention to an image whose logits are a sum of content and position products.

    A head's query concatenates its part of W_qc x and of W_qs s, where s embeds the position the query is
    conditioned on; its key concatenates its part of W_kc memory and of W_kp position. Queries and keys are
    thus twice as wide as values, and their products are scaled by the root of that width.

    A decoder's `first` layer, whose queries are still zero, also adds W_qp p of their positions p and
    W_kp position to the content halves, as in the authors' code.
    """

    def __init__(self, dim: int, *, heads: int = 8, dropout: float = 0.0, first: bool = False) -> None:
        super().__init__()
        check_heads(dim, heads)
        self.heads, self.dropout = heads, dropout
        self.query_content = nn.Linear(dim, dim)
        self.query_position = nn.Linear(dim, dim) if first else None
        self.query_place = nn.Linear(dim, dim)
        self.key_content = nn.Linear(dim, dim)
        self.key_position = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)
        nn.init.zeros_(self.out.bias)

    def forward(
        self,
        x: Float[Tensor, "B N D"],
        query_position: Float[Tensor, "#B N D"],
        place: Float[Tensor, "#B N D"],
        memory: Float[Tensor, "B K D"],
        position: Float[Tensor, "B K D"],
        mask: Bool[Tensor, "B K"] | None = None,
    ) -> Float[Tensor, "B N D"]:
        """Return the update of `x`; `mask` says which keys are padding (True)."""
        q, k = self._queries_and_keys(x, query_position, place, memory, position)
        v = split_heads(self.value(memory), self.heads)
        return self.out(attend(q, k, v, mask=mask, dropout=self.dropout if self.training else 0.0))

    def weights(
        self,
        x: Tensor,
        query_position: Tensor,
        place: Tensor,
        memory: Tensor,
        position: Tensor,
        mask: Tensor | None = None,
    ) -> Float[Tensor, "B M N K"]:
        """Return how much each head of a query attends to each key, for the arguments of `forward`."""
        q, k = self._queries_and_keys(x, query_position, place, memory, position)
        return attention_weights(q, k, mask=mask)

    def _queries_and_keys(
        self, x: Tensor, query_position: Tensor, place: Tensor, memory: Tensor, position: Tensor
    ) -> tuple[Float[Tensor, "B M N _"], Float[Tensor, "B M K _"]]:
        q, k, k_place = self.query_content(x), self.key_content(memory), self.key_position(position)
        if self.query_position is not None:
            q, k = q + self.query_position(query_position), k + k_place
        return self._concatenate(q, self.query_place(place)), self._concatenate(k, k_place)

    def _concatenate(self, content: Tensor, place: Tensor) -> Float[Tensor, "B M _ _"]:
        """Concatenate content and place within each head."""
        return torch.cat([split_heads(t, self.heads) for t in (content, place)], dim=-1)


def conditional_layers(
    count: int,
    width: int,
    *,
    heads: int,
    ffn: int,
    dropout: float = 0.0,
    activation: Callable[[], nn.Module] = nn.ReLU,
) -> nn.ModuleList:
    """Make a decoder's layers of both attentions; they read (p,) and (p, place, memory, position, mask)."""
    return nn.ModuleList(
        DecoderLayer(
            ConditionalSelfAttention(width, heads=heads, dropout=dropout),
            ConditionalCrossAttention(width, heads=heads, dropout=dropout, first=i == 0),
            width,
            ffn,
            dropout=dropout,
            activation=activation,
        )
        for i in range(count)
    )
