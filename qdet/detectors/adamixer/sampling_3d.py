"""Adaptive 3D sampling: each query looks at points of its own choosing, in the image and across scales.

AdaMixer (Gao et al., CVPR 2022, https://arxiv.org/abs/2203.16507), section 3.2.

    B images   N queries   G groups   P points   L levels   C channels per group   D query width
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from qdet.detectors.adamixer.generator import make_generator, start_alike
from qdet.layers.bilinear import interpolate_at
from qdet.layers.precision import fp32_island

LEVEL_TEMPERATURE = 2.0
"""Width of a point's footprint over the levels: tau_z in the paper."""


class AdaptiveSampling(nn.Module):
    """Sample G x P points per query from all levels, at offsets the query writes.

        x~ = x + dx w,   y~ = y + dy h,   z~ = z + dz,   weight_j = softmax_j -(z~ - log2 s_j)^2 / tau_z

    Group g reads its own slice of the channels. Points outside the padded image read zero.

    Two ablations. With two `axes` points have no dz, and their level is that of the box's own size, z~ = z,
    or the only one there is where `strides` names one level: the paper says no more than "2D", and this takes
    away the third dimension alone. Without `adaptive`, all queries share the offsets (`SharedNumbers`), still
    as shares of each one's own box.
    """

    def __init__(
        self,
        query_dim: int,
        strides: Sequence[int],
        *,
        groups: int = 4,
        points: int = 32,
        axes: Literal[2, 3] = 3,
        adaptive: bool = True,
    ) -> None:
        super().__init__()
        self.strides, self.groups, self.points, self.axes = tuple(strides), groups, points, axes
        self.offsets = make_generator(query_dim, groups * points * axes, adaptive=adaptive)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Spread the points over the box alike for every query, one octave finer than the box itself.

        As in the authors' code, a square number of points starts on a regular grid and any other at random.
        """
        start_alike(self.offsets)
        side = math.isqrt(self.points)
        with torch.no_grad():
            start = self.offsets.bias.view(self.groups, self.points, self.axes)
            if side**2 == self.points:
                cells = (torch.arange(side, device=start.device) + 0.5) / side - 0.5
                start[..., :2] = torch.cartesian_prod(cells, cells)
            else:
                start[..., :2].uniform_(-0.5, 0.5)
            start[..., 2:] = -1

    def forward(
        self,
        query: Float[Tensor, "B N D"],
        xyzr: Float[Tensor, "B N 4"],
        features: Sequence[Float[Tensor, "B _ _ _"]],
    ) -> Float[Tensor, "B N G P C"]:
        """Return each query's samples; `features` are maps of G x C channels, finest first."""
        offsets = self.offsets(query).unflatten(-1, (self.groups, self.points, self.axes))
        if self.axes == 2:
            offsets = F.pad(offsets, (0, 1))  # dz = 0
        return sample_levels(sample_points(xyzr, offsets), features, self.strides)


@fp32_island("sampling")
def sample_points(
    xyzr: Float[Tensor, "B N 4"], offsets: Float[Tensor, "B N G P 3"]
) -> Float[Tensor, "B N G P 3"]:
    """Place points at shares of the box's width and height from its centre, and at levels from its own."""
    x, y, z, r = xyzr[:, :, None, None].unbind(-1)  # each [B, N, 1, 1]
    one = torch.ones_like(z)
    scale = torch.stack((torch.exp2(z - r / 2), torch.exp2(z + r / 2), one), dim=-1)
    return torch.stack((x, y, z), dim=-1) + offsets * scale


@fp32_island("sampling")
def level_weights(z: Float[Tensor, "*points"], strides: Sequence[int]) -> Float[Tensor, "L *points"]:
    """Share of each level in a point that lies at z: levels whose stride is near 2^z weigh most."""
    distances = torch.stack([z - math.log2(s) for s in strides])
    return torch.softmax(-(distances**2) / LEVEL_TEMPERATURE, dim=0)


@fp32_island("sampling")
def sample_levels(
    points: Float[Tensor, "B N G P 3"], features: Sequence[Float[Tensor, "B _ _ _"]], strides: Sequence[int]
) -> Float[Tensor, "B N G P C"]:
    """Interpolate every level at (x, y) and add them up by the weight of z."""
    groups = points.shape[2]
    x, y, z = (
        points.transpose(1, 2).flatten(0, 1).unbind(-1)
    )  # each [B G, N, P]: a group is an image of its own
    weights = level_weights(z, strides).unsqueeze(2)  # [L, B G, 1, N, P]
    total = x.new_zeros(())
    for feature, stride, weight in zip(features, strides, weights, strict=True):
        height, width = feature.shape[
            -2:
        ]  # of the padded image, so is the extent that positions are shares of
        grid = torch.stack((x * (2 / (width * stride)) - 1, y * (2 / (height * stride)) - 1), dim=-1)
        maps = feature.unflatten(1, (groups, -1)).flatten(0, 1)  # [B G, C, H, W], no copy
        sampled = interpolate_at(maps, grid)
        total = torch.addcmul(total, sampled, weight)  # [B G, C, N, P]
    return total.unflatten(0, (-1, groups)).permute(0, 3, 1, 4, 2)
