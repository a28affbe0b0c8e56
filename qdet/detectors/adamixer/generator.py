"""Numbers for every query: written by the query itself, or learned once for all of them.

B images   N queries   D query width
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn


class SharedNumbers(nn.Module):
    """What is left of a linear generator that does not see its query: the bias.

    The ablations of AdaMixer (CVPR 2022) call sampling and mixing "not adaptive" without saying what then
    takes the generator's place. Its bias alone is the literal reading: learned as before, alike for all
    queries and images, different in every stage. A fresh model is then the same function with and without
    adaptability, whose generators start from zero weights.
    """

    def __init__(self, query_dim: int, numbers: int) -> None:
        super().__init__()
        self.query_dim = query_dim
        self.bias = nn.Parameter(torch.empty(numbers))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw as the bias of the linear layer whose place it takes."""
        limit = 1 / math.sqrt(self.query_dim)
        nn.init.uniform_(self.bias, -limit, limit)

    def forward(self, query: Float[Tensor, "*n D"]) -> Float[Tensor, "*n _"]:
        """Return the numbers once per query, whatever it says."""
        return self.bias.expand(*query.shape[:-1], -1)


def make_generator(query_dim: int, numbers: int, *, adaptive: bool) -> nn.Linear | SharedNumbers:
    """Make a linear layer from queries to their numbers, or the numbers that all share."""
    return nn.Linear(query_dim, numbers) if adaptive else SharedNumbers(query_dim, numbers)


def start_alike(generator: nn.Linear | SharedNumbers) -> None:
    """Let every query write the same numbers at first: those of the bias."""
    if isinstance(generator, nn.Linear):
        nn.init.zeros_(generator.weight)
