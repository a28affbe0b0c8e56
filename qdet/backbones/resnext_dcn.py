"""ResNeXt-101 with deformable convolutions: AdaMixer's strongest convolutional backbone, "X101-DCN".

ResNeXt: https://arxiv.org/abs/1611.05431; deformable convolution (v1): https://arxiv.org/abs/1703.06211.
As in the authors' setting, every 3 x 3 convolution of the last three stages is deformable, with one set of
offsets for all of its groups.
"""

from dataclasses import dataclass
from typing import Literal

from qdet.backbones.download import Source
from qdet.backbones.resnet import BOTTLENECKS, ResNet, check_width
from qdet.backbones.weights import check_weights
from qdet.layers.conv.batch_norm import Norm

# The file that mmdetection calls open-mmlab://resnext101_32x4d; its name gives the digest's first digits.
_IMAGENET = Source(
    "https://download.openmmlab.com/pretrain/third_party/resnext101_32x4d-a5af3160.pth",
    "a5af3160d3978fd9bb8b9d8ac462cc5240f18d3f26db1d805253e7e9aeb8d3e2",
)


@dataclass(frozen=True, kw_only=True)
class ResNeXtDCNConfig:
    """ResNeXt-101-32x4d with deformable convolutions in its last three stages."""

    depth: Literal[14, 50, 101] = 101
    """Layers: 101 as AdaMixer has it, 50, or 14 with one bottleneck per stage."""
    width: int = 64
    """Channels of the stem; the four stages end with 4, 8, 16 and 32 times as many."""
    groups: int = 32
    """Groups of the 3 x 3 convolutions."""
    width_per_group: int = 4
    """Channels of a group in the first stage, where `width` is 64."""
    norm: Norm = "eval"
    """`frozen` batch norm, `eval`: frozen statistics but trained weights, or `group` norm."""
    freeze: bool = True
    """Do not train the stem and the first stage."""
    weights: str | None = "imagenet"
    """Starting weights: `imagenet` (of 101 layers), a URL, a file, `package:NAME`, or none."""
    weights_sha256: str | None = None
    """SHA-256 that the weights file must have, or at least its first 8 hex digits."""

    def __post_init__(self) -> None:
        """Raise ConfigError for settings that cannot train."""
        check_width(self.width, self.groups, self.width_per_group)
        check_weights(self.weights, self.weights_sha256)

    @property
    def imagenet(self) -> Source | None:
        """The file that `weights="imagenet"` means."""
        published = (self.depth, self.width, self.groups, self.width_per_group) == (101, 64, 32, 4)
        return _IMAGENET if published else None

    def build(self) -> ResNet:
        """Build the backbone with fresh weights."""
        return ResNet(
            BOTTLENECKS[self.depth],
            width=self.width,
            groups=self.groups,
            width_per_group=self.width_per_group,
            norm=self.norm,
            freeze=self.freeze,
            deformable=True,
        )

    def demo(self) -> "ResNeXtDCNConfig":
        """Return the size for a laptop: little data, hence group norm and nothing frozen."""
        return ResNeXtDCNConfig(
            depth=14, width=32, groups=8, width_per_group=16, norm="group", freeze=False, weights=None
        )
