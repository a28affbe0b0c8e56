"""Sine embeddings of positions.

B images   N queries   k coordinates   D embedding width
"""

import torch
from jaxtyping import Float
from torch import Tensor

from qdet.layers.precision import fp32_island


@fp32_island("position")
def sine_embedding(
    coordinates: Float[Tensor, "B N k"], dim: int, *, temperature: float = 10_000.0
) -> Float[Tensor, "B N D"]:
    """Embed each of k coordinates in dim / k features, one coordinate after the other.

    Feature i is sin(c / t_i) where i is even and cos(c / t_i) where it is odd, with
    t_i = temperature^(2 floor(i / 2) / n) and n = dim / k. Wavelengths are computed in float32 as in the
    authors' code. DETR's factor of 2 pi is the caller's.
    """
    n = dim // coordinates.shape[-1]
    index = torch.arange(n // 2, dtype=torch.float32, device=coordinates.device)
    angles = coordinates.unsqueeze(-1) / temperature ** (2 * index / n)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-3)


@fp32_island("position")
def embed_xyzr(xyzr: Float[Tensor, "B N 4"], dim: int, *, scale: float) -> Float[Tensor, "B N D"]:
    """Embed AdaMixer's boxes: pixels times `scale` (the authors': 1/1000), z and r as they are."""
    return sine_embedding(torch.cat((xyzr[..., :2] * scale, xyzr[..., 2:]), dim=-1), dim)
