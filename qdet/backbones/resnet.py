"""ResNet: a backbone of bottleneck convolutions, also with groups (ResNeXt) or deformable taps (DCN).

He et al., CVPR 2016, https://arxiv.org/abs/1512.03385, with the stride in the 3 x 3 convolution as in
torchvision, whose key names this keeps; ResNeXt: Xie et al., CVPR 2017, https://arxiv.org/abs/1611.05431.

    B images   H, W map   C channels
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from qdet.backbones.backbone import Backbone
from qdet.backbones.download import Source
from qdet.backbones.weights import check_weights
from qdet.errors import ConfigError
from qdet.layers.conv.batch_norm import Norm, make_norm
from qdet.layers.conv.deformable_conv import DeformableConv2d
from qdet.layers.conv.normed_conv import NormedConv2d, NormedProjection

# Bottlenecks per stage, by depth: 3 convolutions each, plus the stem and the ImageNet classifier.
BOTTLENECKS: dict[int, tuple[int, int, int, int]] = {
    14: (1, 1, 1, 1),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
}

_TORCHVISION = "https://download.pytorch.org/models"

# ImageNet weights by (depth, groups, width per group). The names carry their digests' first digits; the whole
# ones are as projects that downloaded the files have recorded them.
_IMAGENET: dict[tuple[int, int, int], Source] = {
    (50, 1, 64): Source(
        f"{_TORCHVISION}/resnet50-0676ba61.pth",
        "0676ba61b6795bbe1773cffd859882e5e297624d384b6993f7c9e683e722fb8a",
    ),
    (101, 1, 64): Source(
        f"{_TORCHVISION}/resnet101-63fe2227.pth",
        "63fe2227b86e8f1f2063f43a75c84d195911b6a0eace650907dd3dc62dd49a0a",
    ),
    (101, 32, 8): Source(f"{_TORCHVISION}/resnext101_32x8d-8ba56ff5.pth", "8ba56ff5"),
    (101, 64, 4): Source(f"{_TORCHVISION}/resnext101_64x4d-173b62eb.pth", "173b62eb"),
}


@dataclass(frozen=True, kw_only=True)
class ResNetConfig:
    """ResNet-50 or -101, with torchvision's ImageNet weights."""

    depth: Literal[14, 50, 101] = 50
    """Layers: 50 or 101 of the paper, or 14 with one bottleneck per stage."""
    width: int = 64
    """Channels of the stem; the four stages end with 4, 8, 16 and 32 times as many."""
    groups: int = 1
    """Groups of the 3 x 3 convolutions; more than one makes a ResNeXt."""
    width_per_group: int = 64
    """Channels of a group in the first stage, where `width` is 64."""
    norm: Norm = "frozen"
    """`frozen` batch norm, `eval`: frozen statistics but trained weights, or `group` norm."""
    freeze: bool = True
    """Do not train the stem and the first stage."""
    dilate_c5: bool = False
    """DC5: dilate the last stage by 2 instead of striding, so that its map has stride 16."""
    weights: str | None = "imagenet"
    """Starting weights: `imagenet` (torchvision's file), a URL, a file, `package:NAME`, or none."""
    weights_sha256: str | None = None
    """SHA-256 that the weights file must have, or at least its first 8 hex digits."""

    def __post_init__(self) -> None:
        """Raise ConfigError for settings that cannot train."""
        check_width(self.width, self.groups, self.width_per_group)
        check_weights(self.weights, self.weights_sha256)

    @property
    def imagenet(self) -> Source | None:
        """The file that `weights="imagenet"` means."""
        return _IMAGENET.get((self.depth, self.groups, self.width_per_group)) if self.width == 64 else None

    def build(self) -> "ResNet":
        """Build the backbone with fresh weights."""
        return ResNet(
            BOTTLENECKS[self.depth],
            width=self.width,
            groups=self.groups,
            width_per_group=self.width_per_group,
            norm=self.norm,
            freeze=self.freeze,
            dilate_c5=self.dilate_c5,
        )

    def demo(self) -> "ResNetConfig":
        """Return the size for a laptop: little data, hence group norm and nothing frozen."""
        return ResNetConfig(
            depth=14, width=32, norm="group", freeze=False, dilate_c5=self.dilate_c5, weights=None
        )


def check_width(width: int, groups: int, width_per_group: int) -> None:
    """Raise ConfigError for widths that leave a convolution without channels."""
    if width < 1 or groups < 1 or _inner(width, groups, width_per_group) < 1:
        raise ConfigError(
            "--detector.backbone: every group of the first stage needs a channel, got --width "
            f"{width}, --groups {groups}, --width-per-group {width_per_group}"
        )


class ResNet(Backbone):
    """Images to the maps of the four stages, C2 to C5.

    `depths` are the stages' bottlenecks, `planes` a quarter of their output channels, by default 1, 2, 4 and
    8 times `width`, the stem's. `deformable` makes the 3 x 3 convolutions of the last three stages so.
    """

    def __init__(
        self,
        depths: Sequence[int],
        *,
        width: int = 64,
        planes: Sequence[int] | None = None,
        groups: int = 1,
        width_per_group: int = 64,
        norm: Norm = "frozen",
        freeze: bool = True,
        dilate_c5: bool = False,
        deformable: bool = False,
    ) -> None:
        super().__init__()
        planes = tuple(planes or (width * 2**stage for stage in range(4)))
        self.channels = tuple(4 * p for p in planes)
        self.strides = (4, 8, 16, 16 if dilate_c5 else 32)
        # In channels-last layout convolutions need no reordering, on CPUs and GPUs. Not with torch's group
        # norm, whose rounding error is then up to 50 times as large on a CPU.
        self.memory_format = torch.contiguous_format if norm == "group" else torch.channels_last
        self.conv1 = NormedConv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = make_norm(norm, width)
        channels = (width, *self.channels)
        for stage, depth in enumerate(depths):
            dilated = dilate_c5 and stage == 3
            blocks = (
                Bottleneck(
                    channels[stage] if index == 0 else channels[stage + 1],
                    channels[stage + 1],
                    inner=_inner(planes[stage], groups, width_per_group),
                    groups=groups,
                    stride=2 if stage > 0 and index == 0 and not dilated else 1,
                    dilation=2 if dilated and index > 0 else 1,  # torchvision leaves the first block at 1
                    norm=norm,
                    deformable=deformable and stage > 0,
                )
                for index in range(depth)
            )
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.apply(_init)
        if freeze:
            for part in (self.conv1, self.bn1, self.get_submodule("layer1")):
                part.requires_grad_(False)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B _ _ _"]]:
        """Return the map of every stage."""
        images = images.contiguous(memory_format=self.memory_format)
        x = F.max_pool2d(F.relu(self.conv1(images, self.bn1)), 3, stride=2, padding=1)
        maps = []
        for stage in range(4):
            x = self.get_submodule(f"layer{stage + 1}")(x)
            maps.append(x)
        return maps


class Bottleneck(nn.Module):
    """Convolutions 1 x 1, 3 x 3 and 1 x 1 around a shortcut, which projects where the shape changes."""

    def __init__(
        self,
        channels: int,
        channels_out: int,
        *,
        inner: int,
        groups: int,
        stride: int,
        dilation: int,
        norm: Norm,
        deformable: bool,
    ) -> None:
        super().__init__()
        convolution = DeformableConv2d if deformable else NormedConv2d
        self.conv1 = NormedConv2d(channels, inner, 1, bias=False)
        self.bn1 = make_norm(norm, inner)
        self.conv2 = convolution(
            inner, inner, 3, stride=stride, padding=dilation, dilation=dilation, groups=groups, bias=False
        )
        self.bn2 = make_norm(norm, inner)
        self.conv3 = NormedConv2d(inner, channels_out, 1, bias=False)
        self.bn3 = make_norm(norm, channels_out)
        self.downsample = None
        if stride > 1 or channels != channels_out:
            projection = NormedConv2d(channels, channels_out, 1, stride=stride, bias=False)
            self.downsample = NormedProjection(projection, make_norm(norm, channels_out))

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        """Return the block's map."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.conv1(x, self.bn1), inplace=True)
        x = self.conv2(x, self.bn2) if isinstance(self.conv2, NormedConv2d) else self.bn2(self.conv2(x))
        x = F.relu(x, inplace=True)
        return F.relu(self.conv3(x, self.bn3).add_(shortcut), inplace=True)


def _inner(planes: int, groups: int, width_per_group: int) -> int:
    """Channels of a 3 x 3 convolution: a group has `width_per_group` at 64 planes and more at more."""
    return int(planes * width_per_group / 64) * groups


def _init(module: nn.Module) -> None:
    """Start convolutions as He et al. (2015) for ReLU; norms start at one, biases at zero."""
    if isinstance(module, nn.Conv2d) and module.bias is None:
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
