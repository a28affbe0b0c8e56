"""Squeeze and excitation: channels weighed by global context.

B images   C channels   h, w map

Hu et al., CVPR 2018, https://arxiv.org/abs/1709.01507, section 3, with Dynamic Head's hard sigmoid.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from qdet.layers.mlp import MLP


class SqueezeExcitation(nn.Module):
    """x * hardsigmoid(MLP(mean of x)), hardsigmoid(z) = clamp(z / 6 + 1 / 2, 0, 1)."""

    def __init__(self, channels: int, *, reduction: int = 16) -> None:
        super().__init__()
        self.gate = MLP(channels, max(channels // reduction, 1), channels, 2)

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        """Return the map with weighted channels."""
        return x * F.hardsigmoid(self.gate(x.mean((2, 3))))[..., None, None].to(x.dtype)
