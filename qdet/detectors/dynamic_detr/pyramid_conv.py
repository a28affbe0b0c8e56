"""Pyramid convolution: a pyramid level convolved together with its two neighbours.

Wang et al., CVPR 2020, https://arxiv.org/abs/2005.03101, section 3, with
deformable convolutions as in Dynamic Head (Dai et al., CVPR 2021, https://arxiv.org/abs/2106.08322).

    B images   C channels   h, w map of the level   K taps
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from qdet.layers.conv.deformable_conv import deform_conv2d
from qdet.layers.precision import fp32_island

TAPS = 9
NORM_GROUPS = 16


class PyramidConv(nn.Module):
    """3 x 3 deformable convolutions of a level, the finer one (stride 2) and the coarser one (upsampled).

    Offsets and weights of all taps are predicted from the level itself. A neighbour's offsets are in its
    own cells.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.offset = nn.Conv2d(channels, 3 * TAPS, kernel_size=3, padding=1)
        self.own = TapConv(channels)
        self.finer = TapConv(channels, stride=2)
        self.coarser = TapConv(channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start with taps on the grid, each of weight 0.5."""
        nn.init.zeros_(self.offset.weight)
        nn.init.zeros_(self.offset.bias)  # type: ignore[arg-type]

    def forward(
        self,
        level: Float[Tensor, "B C h w"],
        finer: Float[Tensor, "B C _ _"] | None,
        coarser: Float[Tensor, "B C _ _"] | None,
    ) -> list[Float[Tensor, "B C h w"]]:
        """Return one map per available level; the coarser has half the rows and columns."""
        offset, mask = self.taps(level)
        maps = [self.own(level, offset, mask)]
        if finer is not None:
            maps.append(self.finer(finer, offset, mask))
        if coarser is not None:
            seen = self.coarser(coarser, offset[..., ::2, ::2], mask[..., ::2, ::2])
            maps.append(F.interpolate(seen, size=level.shape[-2:], mode="bilinear", align_corners=False))
        return maps

    @fp32_island("sampling")
    def taps(
        self, level: Float[Tensor, "B C h w"]
    ) -> tuple[Float[Tensor, "B yx h w"], Float[Tensor, "B K h w"]]:
        """Predict every tap's offset in cells, and its weight."""
        offset, logit = self.offset(level).split((2 * TAPS, TAPS), dim=1)
        return offset, logit.sigmoid()


class TapConv(nn.Module):
    """A 3 x 3 convolution at given taps, then GroupNorm."""

    def __init__(self, channels: int, *, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.weight = nn.Parameter(torch.empty(channels, channels, 3, 3))
        self.norm = nn.GroupNorm(NORM_GROUPS, channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw from N(0, 0.01) as Dynamic Head's code does; the norm corrects the scale."""
        nn.init.normal_(self.weight, std=0.01)

    def forward(
        self,
        x: Float[Tensor, "B C _ _"],
        offset: Float[Tensor, "B yx h w"],
        mask: Float[Tensor, "B K h w"],
    ) -> Float[Tensor, "B C h w"]:
        """Return the convolution of `x`."""
        return self.norm(deform_conv2d(x, offset, self.weight, mask=mask, stride=self.stride, padding=1))
