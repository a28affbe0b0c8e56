"""Proposals: every token predicts a box from its position; the best become queries.

Deformable DETR (Zhu et al., ICLR 2021, section 4.2, "two-stage"); also Efficient DETR's dense part.

B images   L levels   T tokens of all levels   k chosen tokens   D width
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from qdet.layers.token_levels import TokenLevels, cell_centers

ANCHOR_SIZE = 0.05
"""Normalized width and height of anchors on the finest level; doubled with every level."""
MARGIN = 0.01
"""Anchors with a coordinate this near to 0 or 1 are not usable."""


def grid_anchors(levels: TokenLevels) -> tuple[Float[Tensor, "B T 4"], Bool[Tensor, "B T"]]:
    """Return an anchor box for every token, and which tokens have a usable one.

    Anchors are squares (x, y, w, h) in normalized coordinates, centred on their cells. Tokens under the
    padding have none, nor do those whose anchor is too close to the border for an inverse sigmoid. The
    authors give them infinite anchors, which make every prediction a box of ones; `settle` does so without
    infinities.
    """
    centers = cell_centers(levels)
    sizes = [
        centers.new_full((height * width, 2), ANCHOR_SIZE * 2**level)
        for level, (height, width) in enumerate(levels.shapes_hw)
    ]
    boxes = torch.cat((centers, torch.cat(sizes).expand_as(centers)), dim=-1)
    usable = ((boxes > MARGIN) & (boxes < 1 - MARGIN)).all(-1) & ~levels.mask
    return boxes, usable


def settle(boxes: Float[Tensor, "B T 4"], usable: Bool[Tensor, "B T"]) -> Float[Tensor, "B T 4"]:
    """Set the boxes of tokens without a usable anchor to (1, 1, 1, 1)."""
    return boxes.masked_fill(~usable.unsqueeze(-1), 1)


def best_tokens(scores: Float[Tensor, "B T"], count: int) -> Int[Tensor, "B k"]:
    """Return the `count` tokens of highest score, all of them where there are fewer."""
    return scores.topk(_as_own_symbol(min(count, scores.shape[1])), dim=1).indices


def _as_own_symbol(size: int) -> int:
    """Let a traced graph have a symbol for a size, instead of an expression of the image's sides.

    Every later tensor has that size. Its expression, a minimum over the cells of all levels, is 400
    characters long, and a program of DINO takes twice as long to load with it.
    """
    if not isinstance(size, torch.SymInt):
        return size
    [own] = torch.scalar_tensor(size, dtype=torch.int64).reshape(1).tolist()
    torch._check(own >= 1)
    return own


def take(x: Float[Tensor, "B T D"], tokens: Int[Tensor, "B k"]) -> Float[Tensor, "B k D"]:
    """Gather the chosen tokens of each image."""
    return x.gather(1, tokens.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
