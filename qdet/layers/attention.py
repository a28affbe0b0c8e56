"""Self-attention between queries that takes an additive bias per pair.

B images   N queries   M heads   D query width
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class OverlapAttention(nn.Module):
    """Multi-head self-attention whose logits are lowered where boxes do not overlap, residual included.

        out = x + W_o softmax(Q K^T / sqrt(D / M) + tau_m B) V

    B is the log of the intersection over foreground of two queries' boxes and tau_m a learned scale per head
    (AdaMixer, CVPR 2022, section 3.4). As in the authors' code, `x` carries the positional embedding into
    queries, keys, values and the residual alike.
    """

    def __init__(self, dim: int, *, heads: int = 8) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim must split evenly into heads, got {dim} and {heads}")
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.overlap_scale = nn.Parameter(torch.empty(heads))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start heads between ignoring overlap (0) and seeing little else (4)."""
        nn.init.xavier_uniform_(self.qkv.weight)
        nn.init.zeros_(self.qkv.bias)
        nn.init.uniform_(self.overlap_scale, 0, 4)

    def forward(self, x: Float[Tensor, "B N D"], overlap: Float[Tensor, "B N N"]) -> Float[Tensor, "B N D"]:
        """Return `x` plus what the other queries say; `overlap` is B, rows attending to columns."""
        q, k, v = (
            self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        )  # each [B, M, N, D / M]
        bias = self.overlap_scale.view(-1, 1, 1) * overlap.unsqueeze(
            1
        )  # [B, M, N, N], exact until it is added
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
        return x + self.out(mixed.transpose(1, 2).flatten(2))
