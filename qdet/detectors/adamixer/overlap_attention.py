"""Self-attention between queries that favours those whose boxes overlap.

B images   N queries   M heads   D query width
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from qdet.layers.attention.multi_head import attend, check_heads, split_heads, spread


class OverlapAttention(nn.Module):
    """Multi-head self-attention with lower logits where boxes do not overlap; includes the residual.

        out = x + W_o softmax(Q K^T / sqrt(D / M) + tau_m B) V

    B is the log of the intersection over foreground of two queries' boxes and tau_m a learned scale per head
    (AdaMixer, CVPR 2022, section 3.4). As in the authors' code, `x` carries the positional embedding into
    queries, keys, values and the residual alike. `biased=False` is the ablation without B.
    """

    def __init__(self, dim: int, *, heads: int = 8, biased: bool = True) -> None:
        super().__init__()
        check_heads(dim, heads)
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.overlap_scale = nn.Parameter(torch.empty(heads)) if biased else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Spread the heads' scales from 0 (overlap ignored) to 4."""
        nn.init.xavier_uniform_(self.qkv.weight)
        nn.init.zeros_(self.qkv.bias)
        if self.overlap_scale is not None:
            nn.init.uniform_(self.overlap_scale, 0, 4)

    def forward(
        self,
        x: Float[Tensor, "B N D"],
        overlap: Float[Tensor, "B N N"] | None = None,
        hidden: Bool[Tensor, "#B N N"] | None = None,
    ) -> Float[Tensor, "B N D"]:
        """Return `x` plus its update; `overlap` is B, rows attending to columns, of which some are hidden."""
        heads = [split_heads(part, self.heads) for part in self.qkv(x).chunk(3, dim=-1)]
        bias = hidden
        if self.overlap_scale is not None and overlap is not None:
            bias = self.overlap_scale.view(-1, 1, 1) * overlap.unsqueeze(1)  # [B, M, N, N], exact so far
            bias = bias if hidden is None else bias.masked_fill(spread(hidden), -torch.inf)
        return x + self.out(attend(*heads, mask=bias))
