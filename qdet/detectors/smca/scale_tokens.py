"""Tokens of several scales: maps projected to one width, with positional embeddings.

B images   L scales   T tokens of all scales   D width   C_j, H_j, W_j of one map

Gao et al.: SMCA, ICCV 2021, https://arxiv.org/abs/2101.07448, section 3, after the authors' later release.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from qdet.layers.padding import padding_mask, resample_mask
from qdet.layers.position import sine_map
from qdet.layers.queries import LearnedQueries
from qdet.types import PaddedSizes


@dataclass(frozen=True)
class ScaleTokens:
    """The cells of the maps, row by row, finest map first."""

    x: Float[Tensor, "B T D"]
    """Features."""
    position: Float[Tensor, "B T D"]
    """Positional embeddings."""
    mask: Bool[Tensor, "B T"]
    """True for padding."""
    shapes_hw: tuple[tuple[int, int], ...]
    """Height and width of each map."""

    @property
    def lengths(self) -> list[int]:
        """Tokens of each scale."""
        return [height * width for height, width in self.shapes_hw]

    def split(self, tokens: Tensor) -> Sequence[Tensor]:
        """Return the tokens of each scale, [B, T, ...] to L times [B, t, ...]."""
        return tokens.split(self.lengths, dim=1)


class ScaleNeck(nn.Module):
    """A 1x1 convolution per map, and a 3x3 one of stride 2 that adds a coarser map.

    Positions are sine embeddings plus a learned vector per scale.
    """

    def __init__(self, in_channels: Sequence[int], strides: Sequence[int], width: int) -> None:
        super().__init__()
        self.strides = (*strides, 2 * strides[-1])
        self.projections = nn.ModuleList(nn.Conv2d(c, width, kernel_size=1) for c in in_channels)
        self.coarser = nn.Conv2d(in_channels[-1], width, kernel_size=3, stride=2, padding=1)
        self.scale = LearnedQueries(len(in_channels) + 1, width, normalize=False)

    def forward(self, features: Sequence[Float[Tensor, "B _ _ _"]], sizes: PaddedSizes) -> ScaleTokens:
        """Return the tokens of the given maps and of the coarser one."""
        maps = [project(x) for project, x in zip(self.projections, features, strict=True)]
        masks = [padding_mask(sizes, *x.shape[-2:]) for x in maps]
        maps.append(self.coarser(features[-1]))
        masks.append(resample_mask(masks[-1], *maps[-1].shape[-2:]))
        scale = self.scale(maps[0].shape[0]).unbind(1)
        places = [sine_map(mask, maps[0].shape[1]).flatten(1, 2) for mask in masks]
        places = [place + vector.unsqueeze(1) for place, vector in zip(places, scale, strict=True)]
        x = torch.cat([x.flatten(2).mT for x in maps], dim=1)
        return ScaleTokens(
            x,
            torch.cat(places, dim=1).to(x.dtype),
            torch.cat([m.flatten(1) for m in masks], dim=1),
            tuple((x.shape[-2], x.shape[-1]) for x in maps),
        )
