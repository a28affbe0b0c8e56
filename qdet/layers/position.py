"""Sine embeddings of positions.

B images   N queries   k coordinates   h, w feature map   D embedding width
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from qdet.layers.eager import cache_tensor
from qdet.layers.precision import fp32_island


@fp32_island("position")
def sine_embedding(
    coordinates: Float[Tensor, "*n k"], dim: int, *, temperature: float = 10_000.0
) -> Float[Tensor, "*n D"]:
    """Embed each of k coordinates in dim / k features, one coordinate after the other.

    Feature i is sin(c / t_i) where i is even and cos(c / t_i) where it is odd, with
    t_i = temperature^(2 floor(i / 2) / n) and n = dim / k. Wavelengths are computed in float32 as in the
    authors' code. The caller applies DETR's factor of 2 pi.
    """
    n = dim // coordinates.shape[-1]
    angles = coordinates.unsqueeze(-1) / _wavelengths(n, temperature, coordinates.device)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-3)


@cache_tensor
def _wavelengths(n: int, temperature: float, device: torch.device) -> Float[Tensor, " half"]:
    with torch.inference_mode(False):  # training reads them, too
        index = torch.arange(n // 2, dtype=torch.float32, device=device)
        return temperature ** (2 * index / n)


@fp32_island("position")
def embed_reference(
    reference: Float[Tensor, "*n k"], dim: int, *, temperature: float = 10_000.0
) -> Float[Tensor, "*n D"]:
    """Embed points (x, y) or boxes (cx, cy, w, h) in normalized coordinates, in the order of `sine_map`.

    That is y, x, then width and height.
    """
    yx = reference[..., :2].flip(-1)
    return sine_embedding(
        torch.cat((yx, reference[..., 2:]), dim=-1) * math.tau, dim, temperature=temperature
    )


@fp32_island("position")
def embed_xyzr(xyzr: Float[Tensor, "B N 4"], dim: int, *, scale: float) -> Float[Tensor, "B N D"]:
    """Embed AdaMixer's boxes: pixels times `scale` (the authors use 1/1000), z and r unscaled."""
    return sine_embedding(torch.cat((xyzr[..., :2] * scale, xyzr[..., 2:]), dim=-1), dim)


def sine_map(
    mask: Bool[Tensor, "B h w"],
    dim: int,
    *,
    temperatures_yx: tuple[float, float] = (10_000.0, 10_000.0),
    offset: float = 0.0,
    eps: float = 1e-6,
) -> Float[Tensor, "B h w D"]:
    """Embed the position of every cell in its image: y in the first half of the features, then x.

    Rows and columns are counted from 1 where `mask` is not True, moved by `offset` (0 in DETR, Conditional
    DETR, DAB-DETR and SMCA, -0.5 in Deformable DETR), and divided by their number, times 2 pi. Always
    float32, as in the authors' code.
    """
    inside = ~mask
    places = []
    for axis, temperature in zip((1, 2), temperatures_yx, strict=True):
        count = inside.cumsum(axis).float()  # of integers: a GPU sums floats in arbitrary order
        last = count.select(axis, -1).unsqueeze(axis)
        share = (count + offset) / (last + eps)
        places.append(sine_embedding(share.unsqueeze(-1) * math.tau, dim // 2, temperature=temperature))
    return torch.cat(places, dim=-1)
