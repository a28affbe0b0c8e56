"""Swin Transformer: a backbone of shifted-window attention at four resolutions.

Liu et al., ICCV 2021, https://arxiv.org/abs/2103.14030; like the authors' detection code, every level
ends in a LayerNorm of its own and maps of any size are padded to whole windows.

    B images   H, W map   C channels
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.compiler import is_exporting

from qdet.backbones.backbone import Backbone
from qdet.backbones.download import Source
from qdet.backbones.swin.drop_path import DropPath
from qdet.backbones.swin.window_attention import WindowAttention, round_up
from qdet.backbones.weights import check_weights
from qdet.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class SwinConfig:
    """Swin-T, -S, -B or -L, or a small one for demonstrations."""

    size: Literal["t", "s", "b", "l", "demo"] = "s"
    """Tiny, small, base or large of the paper, or `demo`: 2.3 million parameters and windows of 8 pixels.
    Large is the one of 384 pixels, with windows of 12."""
    outputs: int = 4
    """Number of the last maps that are returned, each with a norm of its own."""
    drop_path: float = 0.2
    """Stochastic depth of the last block; earlier blocks get less, linearly."""
    drop_attention: bool = True
    """Stochastic depth also of attention, as in the authors' code; AdaMixer's drops MLPs alone."""
    weights: str | None = "imagenet"
    """Starting weights: `imagenet` (the authors' file), a URL, a file, `package:NAME`, or none."""
    weights_sha256: str | None = None
    """SHA-256 that the weights file must have, or at least its first 8 hex digits."""

    def __post_init__(self) -> None:
        """Raise ConfigError for settings that cannot train."""
        if not 0 <= self.drop_path < 1:
            raise ConfigError(
                f"--detector.backbone.drop-path must be at least 0 and below 1, got {self.drop_path}"
            )
        if not 1 <= self.outputs <= 4:
            raise ConfigError(f"--detector.backbone.outputs must be from 1 to 4, got {self.outputs}")
        check_weights(self.weights, self.weights_sha256)

    @property
    def imagenet(self) -> Source | None:
        """The file that `weights="imagenet"` means."""
        name = _PUBLISHED.get(self.size)
        url = f"{_RELEASE}/swin_{name}.pth"
        return Source(url, _SHA256.get(self.size)) if name else None

    def build(self) -> "Swin":
        """Build the backbone with fresh weights."""
        embed, depths, heads, window = SIZES[self.size]
        return Swin(
            embed,
            depths=depths,
            heads=heads,
            window=window,
            drop_path=self.drop_path,
            drop_attention=self.drop_attention,
            outputs=self.outputs,
        )

    def demo(self) -> "SwinConfig":
        """Return the size for a laptop."""
        weights = "package:swin_demo.safetensors"
        return SwinConfig(size="demo", outputs=self.outputs, drop_path=0.0, weights=weights)


# embedding channels, blocks per stage, heads per stage, window: table 7 of the paper, and the demo's.
SIZES: dict[str, tuple[int, tuple[int, ...], tuple[int, ...], int]] = {
    "t": (96, (2, 2, 6, 2), (3, 6, 12, 24), 7),
    "s": (96, (2, 2, 18, 2), (3, 6, 12, 24), 7),
    "b": (128, (2, 2, 18, 2), (4, 8, 16, 32), 7),
    "l": (192, (2, 2, 18, 2), (6, 12, 24, 48), 12),
    "demo": (32, (2, 2, 2, 2), (1, 2, 4, 8), 8),
}

_RELEASE = "https://github.com/SwinTransformer/storage/releases/download/v1.0.0"
_PUBLISHED = {
    "t": "tiny_patch4_window7_224",
    "s": "small_patch4_window7_224",
    "b": "base_patch4_window7_224",
    "l": "large_patch4_window12_384_22k",
}
# The authors give no digests; this one is as several projects that downloaded the file have recorded it.
_SHA256 = {"t": "9f71c168d837d1b99dd1dc29e14990a7a9e8bdc5f673d46b04fe36fe15590ad3"}


class Swin(Backbone):
    """Images to maps of stride 4, 8, 16 and 32, or the last of them, each normalised over its channels."""

    def __init__(
        self,
        embed: int,
        *,
        depths: Sequence[int],
        heads: Sequence[int],
        window: int = 7,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        drop_attention: bool = True,
        outputs: int = 4,
    ) -> None:
        super().__init__()
        widths = [embed * 2**level for level in range(len(depths))]
        self.first = len(depths) - outputs
        self.channels = tuple(widths[self.first :])
        self.strides = tuple(4 * 2**level for level in range(self.first, len(depths)))
        self.patch_embed = PatchEmbed(embed)
        rates = torch.linspace(0, drop_path, sum(depths), device="cpu").tolist()
        self.layers = nn.ModuleList()
        for level, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            first = sum(depths[:level])
            merging = level + 1 < len(depths)
            blocks = [
                SwinBlock(
                    width,
                    heads[level],
                    window=window,
                    shift=window // 2 if index % 2 else 0,
                    mlp_ratio=mlp_ratio,
                    drop_path=rates[first + index],
                    drop_attention=drop_attention,
                )
                for index in range(depth)
            ]
            self.layers.append(SwinStage(blocks, PatchMerging(width) if merging else None))
            if level >= self.first:
                self.add_module(f"norm{level}", nn.LayerNorm(width))
        self.apply(_init)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B _ _ _"]]:
        """Return the map of every level, C2 to C5, or of the last ones."""
        x = self.patch_embed(images)
        maps = []
        for level, stage in enumerate(self.layers):
            x, after = stage(x)
            if level >= self.first:
                maps.append(self.get_submodule(f"norm{level}")(x).permute(0, 3, 1, 2))
            x = after
        return maps


class PatchEmbed(nn.Module):
    """Project every 4 x 4 patch of pixels to a token; images are padded with zeros to whole patches."""

    def __init__(self, embed: int, *, patch: int = 4) -> None:
        super().__init__()
        self.patch = patch
        self.proj = nn.Conv2d(3, embed, patch, stride=patch)
        self.norm = nn.LayerNorm(embed)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B h w C"]:
        """Return the normalised tokens, channels last."""
        bottom, right = (round_up(side, self.patch) - side for side in images.shape[-2:])
        if is_exporting() or bottom or right:
            images = F.pad(images, (0, right, 0, bottom))
        return self.norm(self.proj(images).permute(0, 2, 3, 1))


class SwinStage(nn.Module):
    """The blocks of one resolution and the merging that leads to the next."""

    def __init__(self, blocks: Sequence["SwinBlock"], downsample: "PatchMerging | None") -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample

    def forward(self, x: Float[Tensor, "B H W C"]) -> tuple[Float[Tensor, "B H W C"], Tensor]:
        """Return this resolution's tokens and the next one's, which are the same at the last stage."""
        for block in self.blocks:
            x = block(x)
        return x, x if self.downsample is None else self.downsample(x)


class SwinBlock(nn.Module):
    """Window attention, then an MLP, both pre-normalised residual branches (equation 3 of the paper)."""

    def __init__(
        self,
        channels: int,
        heads: int,
        *,
        window: int,
        shift: int,
        mlp_ratio: float,
        drop_path: float,
        drop_attention: bool = True,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn = WindowAttention(channels, heads, window=window, shift=shift)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = SwinMLP(channels, int(channels * mlp_ratio))
        self.drop_path = DropPath(drop_path)
        self.drop_attention = self.drop_path if drop_attention else nn.Identity()

    def forward(self, x: Float[Tensor, "B H W C"]) -> Float[Tensor, "B H W C"]:
        """Return `x` with both branches added."""
        x = x + self.drop_attention(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class SwinMLP(nn.Module):
    """Two linear layers around a GELU."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: Float[Tensor, "... C"]) -> Float[Tensor, "... C"]:
        """Return the branch's update of every token."""
        return self.fc2(F.gelu(self.fc1(x)))


class PatchMerging(nn.Module):
    """Concatenate each 2 x 2 neighbourhood and halve its channels; odd maps are padded with zeros.

    The neighbours' order is the authors' (row, column): (0, 0), (1, 0), (0, 1), (1, 1).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * channels)
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)

    def forward(self, x: Float[Tensor, "B H W C"]) -> Float[Tensor, "B h w D"]:
        """Return half the resolution with twice the channels."""
        bottom, right = (round_up(side, 2) - side for side in x.shape[1:3])
        if is_exporting() or bottom or right:
            x = F.pad(x, (0, 0, 0, right, 0, bottom))
        x = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2))  # [B, h, row, w, column, C]
        return self.reduction(self.norm(x.permute(0, 1, 3, 4, 2, 5).flatten(3)))


def _init(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
