"""SMCA's Gaussians: where each head of a query expects its object before it looks at the image.

SMCA-DETR (Gao et al., ICCV 2021). A head's Gaussian multiplies its attention weights.

    N queries   L maps   M Gaussians of a query: one per head, or 1
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import nn

from qdet.detectors.smca.gaussian_prior import GaussianPrior
from qdet.visualize.looking.frame import Frame, as_array
from qdet.visualize.looking.recording import Watch


@dataclass(frozen=True)
class Gaussians:
    """The Gaussians of one stage in one image: exp(-(a dx^2 + b dy^2 + c dx^2 dy^2))."""

    centers_xy: Float[np.ndarray, "N L M 2"]
    """In pixels of the original image. A cell lies at its index times the stride, as in SMCA."""
    falloff: Float[np.ndarray, "N L M 3"]
    """a and b per squared pixel, and c, which is 0 unless the detector predicts it."""
    strides: tuple[int, ...]
    """Pixels of the resized image per cell of each map."""

    def at(self, query: int, points_xy: Float[np.ndarray, "*n 2"]) -> Float[np.ndarray, "L M *n"]:
        """Return a query's Gaussians at points of the original image; 1 at their centres."""
        centers, falloff = self.centers_xy[query], self.falloff[query]
        spread = (slice(None), slice(None), *(None,) * (points_xy.ndim - 1))
        dx, dy = np.moveaxis((points_xy - centers[spread]) ** 2, -1, 0)
        a, b, c = np.moveaxis(falloff[spread], -1, 0)
        return np.exp(-(a * dx + b * dy + c * dx * dy))

    def half_widths(self, query: int) -> Float[np.ndarray, "L M 2"]:
        """Return the distances in x and y at which a query's Gaussians have fallen to a half."""
        return np.sqrt(np.log(2) / np.maximum(self.falloff[query, ..., :2], 1e-12))


def watch_gaussians(detector: nn.Module) -> list[Watch]:
    """Return what records the Gaussians of each stage; nothing where there are none."""
    priors = [module for module in detector.modules() if isinstance(module, GaussianPrior)]
    return [Watch(prior, _capture(prior)) for prior in priors]


def gaussians_of(captured: Sequence[Any], frame: Frame) -> tuple[Gaussians, ...]:
    """Take one image's Gaussians out of what was recorded of its batch."""
    return tuple(_gaussians_of(levels, strides, frame) for levels, strides in captured)


def _capture(prior: GaussianPrior) -> Any:
    def capture(inputs: tuple[Any, ...], _: Any) -> Any:
        guide, centers, sizes_hw, _ = inputs
        shape = (len(guide), prior.maps, guide.shape[1], -1)
        predicted = prior.predict(guide, centers, sizes_hw)
        return [(c.expand(*shape), w.expand(*shape)) for c, w in predicted], prior.strides

    return capture


def _gaussians_of(levels: Sequence[Any], strides: tuple[int, ...], frame: Frame) -> Gaussians:
    centers, falloffs = [], []
    for (cells, weights), stride in zip(levels, strides, strict=True):
        centers.append(frame.to_original(cells * stride))
        falloffs.append(_per_pixel(as_array(weights[frame.row]), stride * frame.scale_wh))
    return Gaussians(  # each [M, N, _] so far
        np.stack(centers).transpose(2, 0, 1, 3), np.stack(falloffs).transpose(2, 0, 1, 3), strides
    )


def _per_pixel(
    weights: Float[np.ndarray, "M N _"], cell_wh: Float[np.ndarray, "2"]
) -> Float[np.ndarray, "M N 3"]:
    """Convert weights of squared distances in cells, of which there are 1 to 3, to original pixels."""
    a, b = weights[..., 0], weights[..., min(1, weights.shape[-1] - 1)]
    c = weights[..., 2] if weights.shape[-1] == 3 else np.zeros_like(a)
    x, y = 1 / cell_wh**2
    return np.stack((a * x, b * y, c * x * y), axis=-1)
