"""Attention to several scales, blended per query.

B images   N queries   K tokens of all scales   L scales   M heads   D width

Gao et al.: SMCA, ICCV 2021, https://arxiv.org/abs/2101.07448, section 3.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from qdet.layers.attention.multi_head import MultiheadAttention, attend, attention_weights, split_heads


class ScaleSelectingAttention(MultiheadAttention):
    """W_o sum_j share_j softmax(Q K_j^T / sqrt(d) + mask_j) V_j: a softmax within each scale j.

    Q is a projection of x + query position, K of memory + position, V of memory, as in DETR.
    """

    def forward(  # type: ignore[override]
        self,
        x: Float[Tensor, "B N D"],
        query_position: Float[Tensor, "#B N D"],
        memory: Float[Tensor, "B K D"],
        key: Float[Tensor, "B K D"],
        masks: Sequence[Float[Tensor, "B #M N _"]],
        shares: Float[Tensor, "B N L"],
    ) -> Float[Tensor, "B N D"]:
        """Return the update of `x`.

        `masks` are added to each scale's logits; `shares` are the queries' weights of the scales.
        """
        q, k, v = (split_heads(t, self.heads) for t in self._project(x + query_position, key, memory))
        lengths, dropout = [mask.shape[-1] for mask in masks], self.dropout if self.training else 0.0
        keys, values = k.split(lengths, dim=2), v.split(lengths, dim=2)
        found = torch.zeros_like(x)
        for k, v, mask, share in zip(keys, values, masks, shares.split(1, dim=-1), strict=True):
            found = found + share * attend(q, k, v, mask=mask, dropout=dropout)
        return self.out(found)

    def weights(  # type: ignore[override]
        self,
        x: Tensor,
        query_position: Tensor,
        memory: Tensor,
        key: Tensor,
        masks: Sequence[Tensor],
        shares: Tensor,
    ) -> Float[Tensor, "B M N K"]:
        """Return how much each head of a query attends to each key, for the arguments of `forward`."""
        q, k, _ = (split_heads(t, self.heads) for t in self._project(x + query_position, key, memory))
        keys = k.split([mask.shape[-1] for mask in masks], dim=2)
        scales = zip(keys, masks, shares.split(1, dim=-1), strict=True)
        return torch.cat([s.unsqueeze(1) * attention_weights(q, k, mask=mask) for k, mask, s in scales], -1)
