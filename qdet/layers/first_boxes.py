"""Boxes that queries start from, the same for every image.

Sparse R-CNN (CVPR 2021, section 4.3) compares such starts: where they are learned, a long training forgets
them, a short one does not.

    N queries
"""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Start = Literal["image", "grid"]
"""All of them the whole image, as the papers choose, or spread over it for short training."""


def first_boxes(queries: int, start: Start) -> Float[Tensor, "N 4"]:
    """Return centres, widths and heights as shares of the image."""
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
