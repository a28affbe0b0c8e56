"""Dynamic ReLU: an activation whose slopes and intercepts are predicted per image and channel.

B images   C channels   h, w map

Chen et al., ECCV 2020, https://arxiv.org/abs/2003.10027: DY-ReLU-B, section 3.2.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from qdet.layers.mlp import MLP
from qdet.layers.precision import fp32_island

SLOPE_RANGE, INTERCEPT_RANGE = 1.0, 0.5
"""Largest deviation of a predicted slope and intercept from those of a ReLU."""


class DynamicReLU(nn.Module):
    """y_c = max_k(a_ck x_c + b_ck), k = 1, 2, ReLU's max(x, 0) modified by global context.

    (a, b) = ((1, 0), (0, 0)) + (1, 0.5) * (2 sigmoid(MLP(mean of x)) - 1)
    """

    def __init__(self, channels: int, *, reduction: int = 4) -> None:
        super().__init__()
        self.coefficients = MLP(channels, max(channels // reduction, 1), 4 * channels, 2)

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        """Return the activations."""
        slope, intercept = _lines(self.coefficients(x.mean((2, 3))))
        lines = x.unsqueeze(1) * slope.to(x.dtype) + intercept.to(x.dtype)
        return lines.amax(1)


@fp32_island("norm")
def _lines(
    raw: Float[Tensor, "B raw"],
) -> tuple[Float[Tensor, "B 2 C 1 1"], Float[Tensor, "B 2 C 1 1"]]:
    """Predict slopes and intercepts of both lines of every channel."""
    slope, intercept = (2 * raw.sigmoid() - 1).unflatten(-1, (2, 2, -1, 1, 1)).unbind(1)
    start = torch.tensor((1.0, 0.0), device=raw.device, dtype=raw.dtype)[:, None, None, None]
    return start + SLOPE_RANGE * slope, INTERCEPT_RANGE * intercept
