"""Parameters per query: generated from the query, or static and shared by all.

B images   N queries   D query width
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn


class StaticParameters(nn.Module):
    """A linear generator that ignores its query: only the bias remains.

    The ablations of AdaMixer (CVPR 2022) call sampling and mixing "not adaptive" without saying what
    replaces the generator. Its bias alone is the literal reading: still learned, shared by all queries and
    images, different in every stage. At initialisation the model is then the same function with and without
    adaptivity, since generators start from zero weights.
    """

    def __init__(self, query_dim: int, numbers: int) -> None:
        super().__init__()
        self.query_dim = query_dim
        self.bias = nn.Parameter(torch.empty(numbers))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw like the bias of the linear layer that it replaces."""
        limit = 1 / math.sqrt(self.query_dim)
        nn.init.uniform_(self.bias, -limit, limit)

    def forward(self, query: Float[Tensor, "*n D"]) -> Float[Tensor, "*n _"]:
        """Return the parameters, repeated for every query."""
        return self.bias.expand(*query.shape[:-1], -1)


def make_generator(query_dim: int, numbers: int, *, adaptive: bool) -> nn.Linear | StaticParameters:
    """Make the per-query parameter generator: a linear layer, or static parameters."""
    return nn.Linear(query_dim, numbers) if adaptive else StaticParameters(query_dim, numbers)


def start_alike(generator: nn.Linear | StaticParameters) -> None:
    """Zero the weights, so that every query initially generates the bias."""
    if isinstance(generator, nn.Linear):
        nn.init.zeros_(generator.weight)
