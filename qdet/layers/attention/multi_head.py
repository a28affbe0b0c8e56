"""Multi-head attention: projections, heads and masked keys.

B images   N queries   K keys   M heads   D width   d = D / M

Vaswani et al., NeurIPS 2017, https://arxiv.org/abs/1706.03762, on torch's `scaled_dot_product_attention`,
which never materialises all weights where the device has a fused kernel.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.compiler import is_exporting


class PackedAttention(nn.Module):
    """The weights of an attention: one stacked tensor for its inputs, and an output projection.

    One tensor as in `torch.nn.MultiheadAttention`, whose initialisation the authors use. The module
    owns it, rather than linear layers inside it, because ZeRO-3 gathers a module's parameters when that
    module runs.
    """

    def __init__(self, dim: int, inputs: int, *, heads: int, dropout: float) -> None:
        super().__init__()
        check_heads(dim, heads)
        self.heads, self.dropout = heads, dropout
        self.qkv_weight = nn.Parameter(torch.empty(inputs * dim, dim))
        self.qkv_bias = nn.Parameter(torch.empty(inputs * dim))
        self.out = nn.Linear(dim, dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise as torch's own attention does."""
        nn.init.xavier_uniform_(self.qkv_weight)
        nn.init.zeros_(self.qkv_bias)
        nn.init.zeros_(self.out.bias)


class MultiheadAttention(PackedAttention):
    """W_o softmax(Q K^T / sqrt(d)) V from one set of vectors to another."""

    def __init__(self, dim: int, *, heads: int = 8, dropout: float = 0.0) -> None:
        super().__init__(dim, 3, heads=heads, dropout=dropout)

    def forward(
        self,
        query: Float[Tensor, "B N D"],
        key: Float[Tensor, "B K D"],
        value: Float[Tensor, "B K D"],
        mask: Bool[Tensor, "B K"] | Bool[Tensor, "#B N K"] | Float[Tensor, "B #M #N K"] | None = None,
    ) -> Float[Tensor, "B N D"]:
        """Return what every query gathers from the values.

        `mask` says which keys are hidden (True), from all queries or from each, or is what to add to the
        logits.
        """
        heads = [split_heads(x, self.heads) for x in self._project(query, key, value)]
        return self.out(attend(*heads, mask=mask, dropout=self.dropout if self.training else 0.0))

    def weights(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
    ) -> Float[Tensor, "B M N K"]:
        """Return how much each head of a query attends to each key, for the arguments of `forward`."""
        q, k, _ = (split_heads(x, self.heads) for x in self._project(query, key, value))
        return attention_weights(q, k, mask=mask)

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
        """Compute Q, K and V; those with the same input in one product.

        Weights are split in one call, since the gradient of a slice is as large as the whole tensor.
        """
        dim, weight, bias = query.shape[-1], self.qkv_weight, self.qkv_bias
        if key is query and value is query:
            return F.linear(query, weight, bias).chunk(3, dim=-1)
        if key is query:
            (qk_weight, v_weight), (qk_bias, v_bias) = (t.split((2 * dim, dim)) for t in (weight, bias))
            q, k = F.linear(query, qk_weight, qk_bias).chunk(2, dim=-1)
            return q, k, F.linear(value, v_weight, v_bias)
        parts = zip((query, key, value), weight.split(dim), bias.split(dim), strict=True)
        return tuple(F.linear(x, w, b) for x, w, b in parts)


class SelfAttention(nn.Module):
    """Self-attention; positions enter queries and keys, not values.

    Q and K are projections of x + position, V of x, as in DETR (ECCV 2020, appendix A.3).
    """

    def __init__(self, dim: int, *, heads: int = 8, dropout: float = 0.0) -> None:
        super().__init__()
        self.attention = MultiheadAttention(dim, heads=heads, dropout=dropout)

    def forward(
        self,
        x: Float[Tensor, "B N D"],
        position: Float[Tensor, "#B N D"] | None,
        mask: Bool[Tensor, "B N"] | Bool[Tensor, "#B N N"] | Float[Tensor, "B #M #N N"] | None = None,
    ) -> Float[Tensor, "B N D"]:
        """Return the update of `x`."""
        placed = x if position is None else x + position
        return self.attention(placed, placed, x, mask)


class CrossAttention(nn.Module):
    """Attention of queries to an image's features.

    Q is a projection of x + query position, K of memory + position, V of memory, as in DETR.
    """

    def __init__(self, dim: int, *, heads: int = 8, dropout: float = 0.0) -> None:
        super().__init__()
        self.attention = MultiheadAttention(dim, heads=heads, dropout=dropout)

    def forward(
        self,
        x: Float[Tensor, "B N D"],
        query_position: Float[Tensor, "#B N D"],
        memory: Float[Tensor, "B K D"],
        key: Float[Tensor, "B K D"],
        mask: Bool[Tensor, "B K"] | Float[Tensor, "B #M #N K"] | None = None,
    ) -> Float[Tensor, "B N D"]:
        """Return the update of `x`; `key` is memory + position, which every layer shares."""
        return self.attention(x + query_position, key, memory, mask)

    def weights(
        self, x: Tensor, query_position: Tensor, memory: Tensor, key: Tensor, mask: Tensor | None = None
    ) -> Float[Tensor, "B M N K"]:
        """Return how much each head of a query attends to each key, for the arguments of `forward`."""
        return self.attention.weights(x + query_position, key, memory, mask)


def attend(
    q: Float[Tensor, "B M N d"],
    k: Float[Tensor, "B M K d"],
    v: Float[Tensor, "B M K e"],
    *,
    mask: Bool[Tensor, "B K"] | Bool[Tensor, "#B N K"] | Float[Tensor, "B #M #N K"] | None = None,
    dropout: float = 0.0,
) -> Float[Tensor, "B N _"]:
    """Attend head by head and join the heads; `mask` as for `MultiheadAttention`.

    What is added to the logits is rounded to the precision of the products, as the logits themselves are: in
    bfloat16 a bias b, such as AdaMixer's IoF or SMCA's log-Gaussian, by |b| / 256 at most. A weight of exp(b)
    changes by 1 / (256 e) or 0.0014 at most, and fused kernels take no wider bias.
    """
    if mask is not None and mask.dtype == torch.bool:
        mask = ~spread(mask)
    elif mask is not None:
        mask = mask.to(q.dtype)
    found = F.scaled_dot_product_attention(q, k, v, mask, dropout).transpose(1, 2)
    # The kernel's layout in memory is not that of the plain operations it is exported as.
    return (found.clone(memory_format=torch.contiguous_format) if is_exporting() else found).flatten(2)


def attention_weights(
    q: Float[Tensor, "B M N d"],
    k: Float[Tensor, "B M K d"],
    *,
    mask: Bool[Tensor, "B K"] | Bool[Tensor, "#B N K"] | Float[Tensor, "B #M #N K"] | None = None,
) -> Float[Tensor, "B M N K"]:
    """Return the weights that `attend` multiplies values with and does not keep, in float32 or wider."""
    with torch.autocast(q.device.type, enabled=False):
        q, k = (x if x.dtype == torch.float64 else x.float() for x in (q, k))
        logits = (q * q.shape[-1] ** -0.5) @ k.mT
    if mask is None:
        return logits.softmax(-1)
    if mask.dtype == torch.bool:
        return logits.masked_fill(spread(mask), -torch.inf).softmax(-1)
    return (logits + mask).softmax(-1)


def spread(hidden: Bool[Tensor, "B *N K"]) -> Bool[Tensor, "B 1 _ K"]:
    """Give hidden keys, of all queries or of each, the axes of an attention's logits."""
    return hidden[:, None, None] if hidden.dim() == 2 else hidden[:, None]


def split_heads(x: Float[Tensor, "B N D"], heads: int) -> Float[Tensor, "B M N d"]:
    """Split the width into heads."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def check_heads(dim: int, heads: int) -> None:
    """Raise unless `dim` splits evenly into `heads`."""
    if dim % heads:
        raise ValueError(f"dim must split evenly into heads, got {dim} and {heads}")
