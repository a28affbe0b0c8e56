"""Names and shapes of a detector's tensors, and the backbone that they fit."""

import re
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from qdet.backbones import BackboneConfig, ResNetConfig, ResNeXtDCNConfig, SwinConfig
from qdet.backbones.resnet import BOTTLENECKS
from qdet.backbones.swin.model import SIZES
from qdet.errors import CheckpointError


class Shapes:
    """The shapes of a state dict with qdet's names."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self._shapes = {name: tuple(t.shape) for name, t in state.items()}

    def __contains__(self, name: str) -> bool:
        return name in self._shapes

    def __getitem__(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape.

        Raises:
            CheckpointError: There is no tensor of that name.
        """
        if name not in self._shapes:
            raise CheckpointError(f"the checkpoint is incomplete: nothing in it becomes {name}")
        return self._shapes[name]

    def count(self, prefix: str) -> int:
        """Count the modules of a list: the numbers that follow `prefix` in names."""
        numbers = {m[1] for name in self._shapes if (m := re.match(re.escape(prefix) + r"(\d+)\.", name))}
        return len(numbers)

    def backbone(self, *, dilated: bool) -> BackboneConfig:
        """Return the settings of the backbone that fits the tensors under `backbone.`.

        Dilation does not change shapes.
        """
        if "backbone.patch_embed.proj.weight" in self:
            return self._swin()
        return self._resnet(dilated)

    def _swin(self) -> SwinConfig:
        embed = self["backbone.patch_embed.proj.weight"][0]
        depths = tuple(self.count(f"backbone.layers.{level}.blocks.") for level in range(4))
        outputs = sum(f"backbone.norm{level}.weight" in self for level in range(4))
        for size in ("t", "s", "b", "l", "demo"):
            if SIZES[size][:2] == (embed, depths):
                return SwinConfig(size=size, outputs=outputs)
        raise CheckpointError(f"no Swin here has {embed} channels and {depths} blocks, as the checkpoint's")

    def _resnet(self, dilated: bool) -> BackboneConfig:
        blocks = tuple(self.count(f"backbone.layer{stage}.") for stage in range(1, 5))
        depth = next((depth for depth, known in BOTTLENECKS.items() if known == blocks), None)
        if depth is None:
            raise CheckpointError(f"no ResNet here has {blocks} bottlenecks, as the checkpoint's")
        width = self["backbone.conv1.weight"][0]
        inner, per_group, *_ = self["backbone.layer1.0.conv2.weight"]
        shape = {"width": width, "groups": inner // per_group, "width_per_group": per_group * 64 // width}
        if any("conv_offset" in name for name in self._shapes):
            return replace(ResNeXtDCNConfig(), depth=depth, **shape)
        return replace(ResNetConfig(), depth=depth, dilate_c5=dilated, **shape)
