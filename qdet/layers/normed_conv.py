"""A convolution whose norm comes right after it.

B images   C channels in   D channels out   H, W map
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from qdet.layers.norm import FrozenBatchNorm


class NormedConv2d(nn.Conv2d):
    """Convolve and normalise; a norm that never changes is folded into the convolution.

        ((w * x) - mean) s + bias = (s w) * x + (bias - mean s)

    That spares one pass over the map forward, one backward, and a copy of it in between. A norm that is
    trained runs by itself.
    """

    def forward(self, x: Float[Tensor, "B C H W"], norm: nn.Module) -> Float[Tensor, "B D h w"]:  # type: ignore[override]
        """Return the normalised map; the norm is an argument so that both keep torchvision's names."""
        if not isinstance(norm, FrozenBatchNorm) or norm.train_affine:
            return norm(super().forward(x))
        scale, shift = norm.scale_and_shift()
        weight = self.weight * scale[:, None, None, None]
        return self._conv_forward(x, weight.contiguous(memory_format=torch.channels_last), shift)


class NormedProjection(nn.Sequential):
    """A convolution and its norm under the names 0 and 1, as torchvision has them in a shortcut."""

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:  # type: ignore[override]
        """Return the normalised map."""
        convolution, norm = self
        return convolution(x, norm)
