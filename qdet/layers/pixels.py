"""Normalise images with ImageNet statistics, and set padding to exactly zero.

B images   H, W padded height and width
"""

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

MEAN_RGB = (123.675, 116.28, 103.53)
"""Mean of ImageNet's red, green and blue, on the scale of bytes."""
STD_RGB = (58.395, 57.12, 57.375)
"""Their standard deviation."""


def normalize(
    images: UInt8[Tensor, "B 3 H W"] | Float[Tensor, "B 3 H W"], sizes_hw: Int[Tensor, "B 2"]
) -> Float[Tensor, "B 3 H W"]:
    """Normalise RGB bytes, then set everything outside each image's own height and width to zero.

    The order matters: a byte of 0 is far from the mean, and the published weights were trained
    with padding of 0 after normalisation. Floats count as normalised already; only their padding is set.
    """
    if not images.is_floating_point():
        images = standardize(images.float())
    return images * inside(sizes_hw, images.shape[-2], images.shape[-1]).unsqueeze(1)


def standardize(images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
    """Subtract the mean of each colour and divide by its standard deviation; colours run from 0 to 255."""
    planes = zip(images.unbind(1), MEAN_RGB, STD_RGB, strict=True)
    return torch.stack([(plane - mean) / std for plane, mean, std in planes], dim=1)


def inside(sizes_hw: Int[Tensor, "B 2"], height: int, width: int) -> Tensor:
    """Return True [B, H, W] where a pixel belongs to the image, False where it is padding."""
    rows = torch.arange(height, device=sizes_hw.device) < sizes_hw[:, :1]
    columns = torch.arange(width, device=sizes_hw.device) < sizes_hw[:, 1:]
    return rows.unsqueeze(2) & columns.unsqueeze(1)
