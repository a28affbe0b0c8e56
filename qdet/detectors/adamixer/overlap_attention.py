"""Self-attention between queries that favours those whose boxes overlap.

B images   N queries   M heads   D query width
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from qdet.detectors.adamixer.xyzr import log_iof
from qdet.kernels.overlap_bias import overlap_bias, overlap_bias_runs
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
        boxes_xyxy: Float[Tensor, "B N 4"],
        hidden: Bool[Tensor, "#B N N"] | None = None,
    ) -> Float[Tensor, "B N D"]:
        """Return `x` plus its update; queries are in these boxes, and hidden columns from rows."""
        heads = [split_heads(part, self.heads) for part in self.qkv(x).chunk(3, dim=-1)]
        bias = hidden
        if self.overlap_scale is not None:
            bias = _bias(boxes_xyxy, self.overlap_scale, heads[0].dtype)
            bias = bias if hidden is None else bias.masked_fill(spread(hidden), -torch.inf)
        return x + self.out(attend(*heads, mask=bias))


def _bias(
    boxes_xyxy: Float[Tensor, "B N 4"], scale: Float[Tensor, " M"], dtype: torch.dtype
) -> Float[Tensor, "B M N N"]:
    """Return tau_m B; a kernel gives it in the `dtype` of the products, torch exactly."""
    if overlap_bias_runs(boxes_xyxy, heads=len(scale), dtype=dtype):
        return overlap_bias(boxes_xyxy, scale, dtype)
    return scale.view(-1, 1, 1) * log_iof(boxes_xyxy).unsqueeze(1)
