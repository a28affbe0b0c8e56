"""A neck that projects backbone levels to one width and adds coarser levels.

B images   C_j, H_j, W_j of level j   C common width
"""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from qdet.layers.precision import fp32_island


class MultiLevelNeck(nn.Module):
    """A 1x1 convolution and a GroupNorm per level; levels do not exchange features.

    Deformable DETR (Zhu et al., ICLR 2021, appendix A.2): levels beyond the backbone's are 3x3 convolutions
    of stride 2. The first reads the backbone's last map, each further one the level before it.
    """

    def __init__(
        self, in_channels: Sequence[int], channels: int, *, levels: int, norm_groups: int = 32
    ) -> None:
        super().__init__()
        inner = [Level(c, channels, norm_groups) for c in in_channels]
        sources = [in_channels[-1], *[channels] * levels][: levels - len(inner)]
        outer = [Level(c, channels, norm_groups, coarser=True) for c in sources]
        self.levels = nn.ModuleList([*inner, *outer])

    def forward(self, features: Sequence[Float[Tensor, "B _ _ _"]]) -> list[Float[Tensor, "B C _ _"]]:
        """Return one map per level, finest first."""
        count = len(features)
        maps = [level(feature) for level, feature in zip(self.levels[:count], features, strict=True)]
        x = features[-1]
        for level in self.levels[count:]:
            x = level(x)
            maps.append(x)
        return maps


class Level(nn.Module):
    """One level's convolution and GroupNorm."""

    def __init__(self, in_channels: int, channels: int, norm_groups: int, *, coarser: bool = False) -> None:
        super().__init__()
        size, stride, padding = (3, 2, 1) if coarser else (1, 1, 0)
        self.conv = nn.Conv2d(in_channels, channels, size, stride=stride, padding=padding)
        self.norm = nn.GroupNorm(norm_groups, channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Keep the variance of the input, as the authors' code does."""
        nn.init.xavier_uniform_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]

    def forward(self, x: Float[Tensor, "B _ _ _"]) -> Float[Tensor, "B C _ _"]:
        """Return the level's map, in float32 or wider."""
        return self._normalize(self.conv(x))

    @fp32_island("norm")
    def _normalize(self, x: Tensor) -> Tensor:
        return self.norm(x)
