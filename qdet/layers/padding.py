"""Which cells of a feature map lie under the padding of their image.

B images   h, w feature map
"""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from qdet.types import PaddedSizes


def padding_mask(sizes: PaddedSizes, height: int, width: int) -> Bool[Tensor, "B h w"]:
    """Return True where a cell of the map is padding.

    A cell takes the value of its nearest pixel, rounded towards the first row and column, as in DETR's code.
    """
    (padded_height, padded_width), device = sizes.padded_hw, sizes.sizes_hw.device
    rows = torch.arange(padded_height, device=device) < sizes.sizes_hw[:, :1]
    columns = torch.arange(padded_width, device=device) < sizes.sizes_hw[:, 1:]
    return ~(_nearest(rows, height).unsqueeze(2) & _nearest(columns, width).unsqueeze(1))


def valid_sizes(mask: Bool[Tensor, "B h w"]) -> Int[Tensor, "B 2"]:
    """Return height and width of the unpadded part of each map, in cells."""
    return torch.stack(((~mask[:, :, 0]).sum(1), (~mask[:, 0]).sum(1)), dim=-1)


def resample_mask(mask: Bool[Tensor, "B _ _"], height: int, width: int) -> Bool[Tensor, "B h w"]:
    """Resample a mask to another map size; each cell takes the value of the nearest one."""
    return _nearest(_nearest(mask, height).mT, width).mT


def _nearest(inside: Bool[Tensor, "B _ ..."], length: int) -> Bool[Tensor, "B _ ..."]:
    """Return the values of the nearest cells, by the arithmetic of torch's nearest-neighbour interpolation.

    Written out, as other runtimes round the positions of `F.interpolate` differently.
    """
    cells = torch.arange(length, dtype=torch.float32, device=inside.device)
    step = torch.full_like(cells[:1], inside.shape[1]) / length
    return inside[:, (cells * step).long().clamp(max=inside.shape[1] - 1)]
