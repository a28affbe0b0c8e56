"""Scale exchange: depthwise convolutions within each scale of an image, and between neighbouring ones.

B images   T tokens of all scales   D width   h, w one scale's map

An encoder update without attention, from the authors' later release of SMCA
(gaopengcuhk/SMCA-DETR, `Multi_scale_SMCA.zip`).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class ScaleExchange(nn.Module):
    """W_2 (f_j + up(f_j+1) + down(f_j-1)) of every scale j, where f_j convolves W_1 (x_j + position).

    `up` and `down` are convolutions too; W_1 and W_2 are shared by all scales. Padding is not masked.
    """

    def __init__(self, dim: int, scales: int, *, kernel: int = 5) -> None:
        super().__init__()
        self.enter = nn.Conv2d(dim, dim, kernel_size=1)
        self.within = _depthwise(dim, kernel, scales)
        self.up = _depthwise(dim, kernel, scales - 1)
        self.down = _depthwise(dim, kernel, scales - 1, stride=2)
        self.leave = nn.Conv2d(dim, dim, kernel_size=1)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        position: Float[Tensor, "B T D"],
        shapes_hw: Sequence[tuple[int, int]],
    ) -> Float[Tensor, "B T D"]:
        """Return the update of `x`, the tokens of maps of these heights and widths, finest first."""
        lengths = [height * width for height, width in shapes_hw]
        rows = self.enter((x + position).mT.unsqueeze(2)).split(lengths, dim=-1)  # all cells as one row
        maps = [row.squeeze(2).unflatten(-1, shape) for row, shape in zip(rows, shapes_hw, strict=True)]
        maps = [conv(m) for conv, m in zip(self.within, maps, strict=True)]
        mixed = list(maps)
        for j, conv in enumerate(self.up):
            raised = F.interpolate(conv(maps[j + 1]), size=shapes_hw[j], mode="bilinear", align_corners=True)
            mixed[j] = mixed[j] + raised
        for j, conv in enumerate(self.down):
            mixed[j + 1] = mixed[j + 1] + conv(maps[j])
        row = torch.cat([m.flatten(2) for m in mixed], dim=-1)
        return self.leave(row.unsqueeze(2)).squeeze(2).mT


def _depthwise(dim: int, kernel: int, count: int, *, stride: int = 1) -> nn.ModuleList:
    return nn.ModuleList(
        nn.Conv2d(dim, dim, kernel, stride=stride, padding=kernel // 2, groups=dim) for _ in range(count)
    )
