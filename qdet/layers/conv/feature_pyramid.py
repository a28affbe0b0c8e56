"""Feature pyramids: backbone levels with context from coarser, or finer, levels.

B images   C_j, H_j, W_j of level j   C common width
"""

from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class FPN(nn.Module):
    """Laterals to one width, sums from the coarsest level down, and a smoothing convolution per level.

        M_j = lateral_j(C_j) + nearest(M_{j+1}),   P_j = output_j(M_j)

    Lin et al., CVPR 2017, https://arxiv.org/abs/1612.03144, section 3, as detectron2 and mmdetection build
    it: 1 x 1 laterals and 3 x 3 outputs with biases, no norm, no activation.
    """

    def __init__(self, in_channels: Sequence[int], channels: int, *, extra_levels: int = 0) -> None:
        """Make one level per entry of `in_channels`, finest first, each with `channels` channels.

        Each of `extra_levels` has half the resolution of the one before: every second of its cells.
        """
        super().__init__()
        self.extra_levels = extra_levels
        self.lateral = nn.ModuleList(nn.Conv2d(c, channels, kernel_size=1) for c in in_channels)
        self.output = nn.ModuleList(_conv3x3(channels) for _ in in_channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weights as detectron2 does, with Caffe2's variant of Xavier, and zero the biases."""
        _xavier_by_inputs(self)

    def forward(self, features: Sequence[Float[Tensor, "B _ _ _"]]) -> list[Float[Tensor, "B C _ _"]]:
        """Return the pyramid of the backbone's maps, finest first."""
        laterals = [conv(f) for conv, f in zip(self.lateral, features, strict=True)]
        merged = laterals[-1:]  # coarsest first
        for lateral in reversed(laterals[:-1]):
            merged.append(lateral + F.interpolate(merged[-1], size=lateral.shape[-2:], mode="nearest"))
        levels = [conv(m) for conv, m in zip(self.output, reversed(merged), strict=True)]
        for _ in range(self.extra_levels):
            levels.append(levels[-1][..., ::2, ::2])
        return levels


class PAFPN(nn.Module):
    """An FPN, and a second path from its finest level up.

        N_1 = P_1,   N_j = P_j + down_j(N_{j-1}),   out_1 = N_1,   out_j = output_j(N_j)

    Liu et al., CVPR 2018, https://arxiv.org/abs/1803.01534, section 3.1, as mmdetection builds it: the
    bottom-up path reads the sums rather than the outputs, the convolutions are 3 x 3 (`down` with stride 2)
    and have biases, no norm and no activation, where the paper puts a ReLU after each.
    """

    def __init__(self, in_channels: Sequence[int], channels: int) -> None:
        super().__init__()
        self.fpn = FPN(in_channels, channels)
        self.down = nn.ModuleList(_conv3x3(channels, stride=2) for _ in in_channels[1:])
        self.output = nn.ModuleList(_conv3x3(channels) for _ in in_channels[1:])
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weights as the FPN inside does."""
        _xavier_by_inputs(self)

    def forward(self, features: Sequence[Float[Tensor, "B _ _ _"]]) -> list[Float[Tensor, "B C _ _"]]:
        """Return the pyramid of the backbone's maps, finest first."""
        sums = self.fpn(features)
        for j, down in enumerate(self.down, start=1):
            sums[j] = sums[j] + down(sums[j - 1])
        return [sums[0], *(conv(n) for conv, n in zip(self.output, sums[1:], strict=True))]


def _conv3x3(channels: int, *, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, kernel_size=3, stride=stride, padding=1)


def _xavier_by_inputs(module: nn.Module) -> None:
    """Draw from U(-b, b), b^2 = 3 / inputs; where inputs equal outputs, as from C to C, that is Xavier's."""
    for conv in (m for m in module.modules() if isinstance(m, nn.Conv2d)):
        nn.init.kaiming_uniform_(conv.weight, a=1)
        nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
