"""Dynamic convolution: 1 x 1 convolutions over a query's region, with filters generated from the query.

Sparse R-CNN (Sun et al., CVPR 2021, https://arxiv.org/abs/2011.12450), section 3.2, "dynamic instance
interactive head".

    B images   N queries   P cells of a region   D width of queries and regions   h filters
"""

from itertools import pairwise

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class DynamicConv(nn.Module):
    """Filter each query's region with the query's filters, then project all cells to one vector.

        x = ReLU(LN(F W_1)),   x = ReLU(LN(x W_2)),   update = ReLU(LN(Linear(flatten x)))
        [W_1 in R^(D x h), W_2 in R^(h x D)] = Linear(q)

    With `layers` 1 instead of the paper's 2 there is no W_2, and every cell keeps h features.
    """

    def __init__(self, dim: int, *, cells: int, filters: int = 64, layers: int = 2) -> None:
        super().__init__()
        if layers not in (1, 2):
            raise ValueError(f"layers must be 1 or 2, got {layers}")
        self.widths = (dim, filters, dim)[: layers + 1]
        self.weights = nn.Linear(dim, sum(a * b for a, b in pairwise(self.widths)))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in self.widths[1:])
        self.out = nn.Linear(cells * self.widths[-1], dim)
        self.out_norm = nn.LayerNorm(dim)

    def forward(
        self, query: Float[Tensor, "B N D"], regions: Float[Tensor, "B N P D"]
    ) -> Float[Tensor, "B N D"]:
        """Return the update of `query`."""
        x = regions
        for weight, norm in zip(self.filters(query), self.norms, strict=True):
            x = F.relu(norm(x @ weight))
        return F.relu(self.out_norm(self.out(x.flatten(2))))

    def filters(self, query: Float[Tensor, "B N D"]) -> list[Float[Tensor, "B N _ _"]]:
        """Generate each query's matrices, one per layer."""
        shapes = list(pairwise(self.widths))
        matrices = self.weights(query).split([a * b for a, b in shapes], dim=-1)
        return [m.unflatten(-1, shape) for m, shape in zip(matrices, shapes, strict=True)]
