"""Transformer layers around any attention: residual updates with LayerNorm and dropout.

B images   N tokens or queries   D width
"""

from collections.abc import Callable, Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from qdet.layers.mlp import FeedForward


class Residual(nn.Module):
    """LN(x + Dropout(f(x, ...))), or x + Dropout(f(LN(x), ...)) with `pre_norm`."""

    def __init__(self, update: nn.Module, dim: int, *, dropout: float = 0.0, pre_norm: bool = False) -> None:
        super().__init__()
        self.update = update
        self.norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        self.pre_norm = pre_norm

    def forward(self, x: Float[Tensor, "B N D"], *context: Any) -> Float[Tensor, "B N D"]:
        """Update `x`; `context` is passed on to the update."""
        if self.pre_norm:
            return x + self.dropout(self.update(self.norm(x), *context))
        return self.norm(x + self.dropout(self.update(x, *context)))


class EncoderLayer(nn.Module):
    """Attention between tokens, then a feed-forward block."""

    def __init__(
        self,
        attention: nn.Module,
        dim: int,
        ffn: int,
        *,
        dropout: float = 0.0,
        activation: Callable[[], nn.Module] = nn.ReLU,
        pre_norm: bool = False,
    ) -> None:
        super().__init__()
        feed_forward = FeedForward(dim, ffn, dropout=dropout, activation=activation)
        self.attention = Residual(attention, dim, dropout=dropout, pre_norm=pre_norm)
        self.ffn = Residual(feed_forward, dim, dropout=dropout, pre_norm=pre_norm)

    def forward(self, x: Float[Tensor, "B N D"], *context: Any) -> Float[Tensor, "B N D"]:
        """Return the tokens updated; the attention reads `context`."""
        return self.ffn(self.attention(x, *context))


class DecoderLayer(nn.Module):
    """Attention between queries, attention to the image, then a feed-forward block."""

    def __init__(
        self,
        self_attention: nn.Module,
        cross_attention: nn.Module,
        dim: int,
        ffn: int,
        *,
        dropout: float = 0.0,
        activation: Callable[[], nn.Module] = nn.ReLU,
        pre_norm: bool = False,
    ) -> None:
        super().__init__()
        feed_forward = FeedForward(dim, ffn, dropout=dropout, activation=activation)
        self.self_attention = Residual(self_attention, dim, dropout=dropout, pre_norm=pre_norm)
        self.cross_attention = Residual(cross_attention, dim, dropout=dropout, pre_norm=pre_norm)
        self.ffn = Residual(feed_forward, dim, dropout=dropout, pre_norm=pre_norm)

    def forward(
        self, x: Float[Tensor, "B N D"], among_queries: Sequence[Any], to_image: Sequence[Any]
    ) -> Float[Tensor, "B N D"]:
        """Return the queries updated; each attention reads its own context."""
        return self.ffn(self.cross_attention(self.self_attention(x, *among_queries), *to_image))


def run(layer: nn.Module, *inputs: Any, recompute: bool) -> Any:
    """Run a layer, with `recompute` trading its activations for a second forward pass."""
    return checkpoint(layer, *inputs, use_reentrant=False) if recompute else layer(*inputs)


def xavier_matrices(*modules: nn.Module) -> None:
    """Draw every weight of two or more axes from Xavier's uniform distribution, as DETR's code does."""
    for module in modules:
        for parameter in module.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
