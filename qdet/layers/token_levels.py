"""The cells of several feature maps as one sequence of tokens.

B images   L levels   T tokens of all levels   h, w feature map   D width
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from qdet.layers.padding import padding_mask, valid_sizes
from qdet.layers.position import sine_map
from qdet.types import PaddedSizes


@dataclass(frozen=True)
class TokenLevels:
    """Where tokens come from: row by row of each map in turn, finest first."""

    shapes_hw: tuple[tuple[int, int], ...]
    """Height and width of each map."""
    mask: Bool[Tensor, "B T"]
    """True where a token is padding."""
    extent_wh: Float[Tensor, "L 2"]
    """Width and height of each map, in cells."""
    inside_wh: Float[Tensor, "B L 2"]
    """Width and height of the unpadded part of each map, in cells."""

    def split(self, tokens: Tensor) -> list[Tensor]:
        """Return the tokens of each level: [B, T, ...] to [B, h, w, ...]."""
        sizes = [height * width for height, width in self.shapes_hw]
        parts = zip(tokens.split(sizes, dim=1), self.shapes_hw, strict=True)
        return [part.unflatten(1, shape) for part, shape in parts]

    @property
    def inside_share(self) -> Float[Tensor, "B L 2"]:
        """Width and height of the unpadded part of each map, relative to the map."""
        return self.inside_wh / self.extent_wh


def token_levels(maps: Sequence[Float[Tensor, "B D _ _"]], sizes: PaddedSizes) -> TokenLevels:
    """Describe the tokens that `flatten_maps` makes of `maps`."""
    shapes = tuple((m.shape[-2], m.shape[-1]) for m in maps)
    masks = [padding_mask(sizes, height, width) for height, width in shapes]
    extent = torch.tensor([(width, height) for height, width in shapes], dtype=torch.float32)
    return TokenLevels(
        shapes,
        torch.cat([mask.flatten(1) for mask in masks], dim=1),
        extent.to(sizes.sizes_hw.device, non_blocking=True),
        torch.stack([valid_sizes(mask).flip(-1) for mask in masks], dim=1).float(),
    )


def flatten_maps(maps: Sequence[Float[Tensor, "B D _ _"]]) -> Float[Tensor, "B T D"]:
    """Put the cells of all maps in one sequence."""
    return torch.cat([m.flatten(2).mT for m in maps], dim=1)


def sine_tokens(
    levels: TokenLevels,
    dim: int,
    *,
    temperatures_yx: tuple[float, float] = (10_000.0, 10_000.0),
    offset: float = -0.5,
) -> list[Float[Tensor, "B _ D"]]:
    """Embed the position of every cell within its level: one tensor per level, always float32.

    Positions are those of cell centres, as in Deformable DETR's code, where `offset` is -0.5; DINO's has 0.
    """
    return [
        sine_map(mask, dim, temperatures_yx=temperatures_yx, offset=offset).flatten(1, 2)
        for mask in levels.split(levels.mask)
    ]


def cell_centers(levels: TokenLevels) -> Float[Tensor, "B T 2"]:
    """Return x and y of every token's centre in normalized coordinates of its unpadded image.

    Always float32, as in the authors' code; under the padding they are above 1.
    """
    device, centers = levels.mask.device, []
    for level, (height, width) in enumerate(levels.shapes_hw):
        y, x = torch.meshgrid(
            torch.arange(height, dtype=torch.float32, device=device) + 0.5,
            torch.arange(width, dtype=torch.float32, device=device) + 0.5,
            indexing="ij",
        )
        cells = torch.stack((x, y), dim=-1).flatten(0, 1)
        centers.append(cells / levels.inside_wh[:, level].unsqueeze(1))
    return torch.cat(centers, dim=1)
