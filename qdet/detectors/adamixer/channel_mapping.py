"""AdaMixer's neck: project every feature level to one width, without exchange between levels.

B images   C_j, H_j, W_j of level j   C common width
"""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from qdet.layers.precision import fp32_island


class ChannelMapping(nn.Module):
    """A 1x1 convolution per level, then one GroupNorm that all levels share, as in the authors' code.

    The decoder's 3D sampling replaces a feature pyramid (AdaMixer, CVPR 2022, section 3.2).
    """

    def __init__(self, in_channels: Sequence[int], channels: int, *, norm_groups: int = 32) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(c, channels, kernel_size=1) for c in in_channels)
        self.norm = nn.GroupNorm(norm_groups, channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weights that keep the variance of every level."""
        for name, parameter in self.lateral.named_parameters():
            if name.endswith("weight"):
                nn.init.xavier_uniform_(parameter)
            else:
                nn.init.zeros_(parameter)

    def forward(self, features: Sequence[Float[Tensor, "B _ _ _"]]) -> list[Float[Tensor, "B C _ _"]]:
        """Return one map per level, in float32 (for sampling) or wider."""
        return [self._normalize(conv(f)) for conv, f in zip(self.lateral, features, strict=True)]

    def _normalize(self, x: Tensor) -> Tensor:
        return _group_norm(x, self.norm)


@fp32_island("norm")
def _group_norm(x: Tensor, norm: nn.GroupNorm) -> Tensor:
    return norm(x)
