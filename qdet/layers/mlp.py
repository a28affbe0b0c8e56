"""Small stacks of linear layers: feed-forward blocks and the hidden layers of heads."""

from collections.abc import Callable
from itertools import pairwise

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class FeedForward(nn.Module):
    """W_2 ReLU(W_1 x), the block between attention layers."""

    def __init__(
        self,
        dim: int,
        hidden: int,
        *,
        dropout: float = 0.0,
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        self.expand = nn.Linear(dim, hidden)
        self.activation = activation()
        self.dropout = nn.Dropout(dropout)
        self.contract = nn.Linear(hidden, dim)

    def forward(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        """Return the update of `x`, vector by vector."""
        return self.contract(self.dropout(self.activation(self.expand(x))))


class MLP(nn.Module):
    """Linear layers with a ReLU between them and none after the last."""

    def __init__(self, dim: int, hidden: int, out: int, layers: int) -> None:
        super().__init__()
        widths = [dim, *[hidden] * (layers - 1), out]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))

    def forward(self, x: Float[Tensor, "*n D"]) -> Float[Tensor, "*n _"]:
        """Apply the layers to every vector."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


def tower(dim: int, layers: int, *, bias: bool = True) -> nn.Sequential:
    """Linear, LayerNorm, ReLU, `layers` times: the hidden layers of a head."""
    parts: list[nn.Module] = []
    for _ in range(layers):
        parts += [nn.Linear(dim, dim, bias=bias), nn.LayerNorm(dim), nn.ReLU()]
    return nn.Sequential(*parts)
