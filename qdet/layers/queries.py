"""Learned vectors that every image's queries start from.

B images   N queries   M queries of training alone   D query width
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class LearnedQueries(nn.Module):
    """N learned vectors, the same for every image; with `normalize` through LayerNorm without affine weights.

    In training `extra` more follow, of which evaluation knows nothing.

    A module of its own, because ZeRO-3 gathers a parameter again for the backward pass of the module that
    owns it, and hooks that pass to the tensors which the module returned.
    """

    def __init__(self, queries: int, width: int, *, normalize: bool, extra: int = 0) -> None:
        super().__init__()
        self.normalize = normalize
        self.weight = nn.Parameter(torch.empty(queries, width))
        self.extra = nn.Parameter(torch.empty(extra, width)) if extra else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw from N(0, 1): identical queries would stay identical."""
        nn.init.normal_(self.weight)
        if self.extra is not None:
            nn.init.normal_(self.extra)

    def forward(self, images: int) -> Float[Tensor, "B NM D"]:
        """Return the vectors, repeated for `images` images."""
        vectors = self.weight
        if self.extra is not None and self.training:
            vectors = torch.cat((vectors, self.extra))
        if self.normalize:
            vectors = F.layer_norm(vectors, vectors.shape[-1:])
        return vectors.expand(images, -1, -1)


Start = Literal["image", "grid"]
"""Initial boxes: the whole image, as in the papers, or a grid over it for short training."""


def first_boxes(queries: int, start: Start) -> Float[Tensor, "N 4"]:
    """Return boxes (cx, cy, w, h) in normalized coordinates."""
    return grid_boxes(queries) if start == "grid" else whole_boxes(queries)


def whole_boxes(queries: int) -> Float[Tensor, "N 4"]:
    """Return the whole image for every query."""
    return torch.tensor((0.5, 0.5, 1.0, 1.0)).repeat(queries, 1)


def grid_boxes(queries: int) -> Float[Tensor, "N 4"]:
    """Return boxes on a grid, each 2^-1.5 of the image wide and high."""
    columns = math.ceil(math.sqrt(queries))
    rows = math.ceil(queries / columns)
    cell = torch.arange(queries)
    centres = torch.stack(((cell % columns + 0.5) / columns, (cell // columns + 0.5) / rows), dim=-1)
    return torch.cat((centres, torch.full_like(centres, 2**-1.5)), dim=-1)
