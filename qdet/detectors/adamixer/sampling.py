"""The ways of sampling that AdaMixer's ablation compares: what each of them reads, and with which part."""

from collections.abc import Sequence
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from qdet.detectors.adamixer.sampling_3d import AdaptiveSampling
from qdet.layers.region_sampling import RegionSampling
from qdet.layers.regions.roi_align import Pyramid

Sampling = Literal["3d", "2d", "c3", "c4", "c5", "roi-align"]
"""Points in space and scale, which is AdaMixer's; in space, at the scale of the box; in space, on one level
of the backbone; or a grid in the box."""

ONE_LEVEL: dict[Sampling, slice] = {"c3": slice(1, 2), "c4": slice(2, 3), "c5": slice(3, 4)}
"""Of the maps C2 to C5, those that sampling from one level reads."""

Maps = Sequence[Float[Tensor, "B _ _ _"]] | Pyramid
"""Feature maps, finest first, or the same maps on one canvas."""


def make_sampling(
    kind: Sampling, query_dim: int, strides: Sequence[int], *, groups: int, points: int, adaptive: bool
) -> AdaptiveSampling | RegionSampling:
    """Make the part that reads maps of these strides, for queries that write where unless not `adaptive`."""
    if kind == "roi-align":
        return RegionSampling(groups=groups)
    axes = 3 if kind == "3d" else 2
    return AdaptiveSampling(query_dim, strides, groups=groups, points=points, axes=axes, adaptive=adaptive)


def lay_out(kind: Sampling, maps: Sequence[Float[Tensor, "B _ _ _"]], strides: Sequence[int]) -> Maps:
    """Return the maps of a batch as the parts of this kind read them."""
    return Pyramid.of(maps, strides) if kind == "roi-align" else maps
