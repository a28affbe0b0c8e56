"""Small stacks of linear layers: the feed-forward block of a decoder and the towers of its heads."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class FeedForward(nn.Module):
    """x + W_2 ReLU(W_1 x), the block between attention layers."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.expand = nn.Linear(dim, hidden)
        self.contract = nn.Linear(hidden, dim)

    def forward(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        """Return `x` updated query by query."""
        return x + self.contract(F.relu(self.expand(x)))


def tower(dim: int, layers: int) -> nn.Sequential:
    """Linear, LayerNorm, ReLU, `layers` times: what a head does before its last product."""
    parts: list[nn.Module] = []
    for _ in range(layers):
        parts += [nn.Linear(dim, dim), nn.LayerNorm(dim), nn.ReLU()]
    return nn.Sequential(*parts)
