"""Norms of a backbone: frozen batch norm, and group norm for training from scratch.

B images   C channels   H, W map
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

Norm = Literal["frozen", "eval", "group"]


class FrozenBatchNorm(nn.Module):
    """Batch norm with the statistics of the loaded weights, so that small batches do no harm.

        y = (x - mean) / sqrt(var + 1e-5) * weight + bias

    The DETR family keeps all four as buffers; with `train_affine` (mmdetection's `norm_eval`, AdaMixer)
    `weight` and `bias` are trained. Keys are those of `nn.BatchNorm2d` without `num_batches_tracked`.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, *, train_affine: bool = False, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps, self.train_affine = eps, train_affine
        if train_affine:
            self.weight = nn.Parameter(torch.ones(channels))
            self.bias = nn.Parameter(torch.zeros(channels))
        else:
            self.register_buffer("weight", torch.ones(channels))
            self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Normalise `x` in its own precision."""
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)

    def scale_and_shift(self) -> tuple[Float[Tensor, " C"], Float[Tensor, " C"]]:
        """Return the norm's scale and shift, for folding into a convolution (`NormedConv2d`)."""
        scale = self.weight * torch.rsqrt(self.running_var + self.eps)  # in the buffers' float32
        return scale, self.bias - self.running_mean * scale

    def extra_repr(self) -> str:
        """Show the width when the module is printed."""
        return f"{self.running_mean.numel()}, train_affine={self.train_affine}"


def make_norm(kind: Norm, channels: int) -> nn.Module:
    """Make the norm of a convolution with that many output channels.

    `group` is independent of other images and needs no loaded statistics: at most 32 groups (Wu and He,
    ECCV 2018, https://arxiv.org/abs/1803.08494) of at least 4 channels.
    """
    if kind == "group":
        return nn.GroupNorm(math.gcd(32, max(channels // 4, 1)), channels)
    return FrozenBatchNorm(channels, train_affine=kind == "eval")
