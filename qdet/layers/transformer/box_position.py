"""A query position computed from a box, for queries that start as proposals.

B images   N queries   D width
"""

import math

from jaxtyping import Float
from torch import Tensor, nn

from qdet.layers.position import sine_embedding
from qdet.layers.transformer.layers import xavier_matrices


class BoxPosition(nn.Module):
    """LN(W s(box) + b), with s the sine embeddings of x, y, w and h in a quarter of the features each.

    Deformable DETR's two-stage queries (Zhu et al., ICLR 2021, and their code).
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.projection = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim)
        xavier_matrices(self)

    def forward(self, boxes: Float[Tensor, "B N _"]) -> Float[Tensor, "B N D"]:
        """Embed boxes (x, y, w, h), or points (x, y) in halves of the features, in normalized coordinates."""
        return self.norm(self.projection(sine_embedding(boxes * math.tau, self.projection.in_features)))
