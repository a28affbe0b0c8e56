"""The sampling methods of AdaMixer's ablation: the maps each reads, and its module."""

from collections.abc import Sequence
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from qdet.detectors.adamixer.sampling_3d import AdaptiveSampling, FlatLevels
from qdet.detectors.adamixer.xyzr import PlacedBoxes
from qdet.kernels.sampling_3d import SampledLevels, sampling_3d_runs
from qdet.layers.precision import narrowed
from qdet.layers.regions.roi_align import Pyramid, roi_align
from qdet.layers.weighted_rows import rows_are_faster

Sampling = Literal["3d", "2d", "c3", "c4", "c5", "roi-align"]
"""Points in space and scale, which is AdaMixer's; in space, at the scale of the box; in space, on one level
of the backbone; or a grid in the box."""


ONE_LEVEL: dict[Sampling, slice] = {"c3": slice(1, 2), "c4": slice(2, 3), "c5": slice(3, 4)}
"""Of the maps C2 to C5, those that sampling from one level reads."""


Maps = Sequence[Float[Tensor, "B _ _ _"]] | FlatLevels | SampledLevels | Pyramid
"""Feature maps, finest first, or as rows of one table (for a CPU or a kernel), or on one canvas."""


SIDE = 7
"""Cells along each side of a region, as in Sparse R-CNN."""


class RegionSampling(nn.Module):
    """RoIAlign of the boxes, each from the level that fits its size; queries choose nothing.

    AdaMixer's ablation (CVPR 2022) gives no details of RoIAlign. Read literally that is 7 x 7 cells of 2 x 2
    samples and the levels of Lin et al. (2017), as in Sparse R-CNN. Every group gets all cells of its slice
    of the channels, so that there are always 49 points to mix.
    """

    points = SIDE**2

    def __init__(self, *, groups: int = 4) -> None:
        super().__init__()
        self.groups = groups

    def reset_parameters(self) -> None:
        """Do nothing: there are no weights."""

    def forward(
        self, query: Float[Tensor, "B N D"], boxes: PlacedBoxes, features: Pyramid
    ) -> Float[Tensor, "B N G P C"]:
        """Return each box's cells of maps with G x C channels; the query's content is unused."""
        regions = roi_align(features, boxes.xyxy, size=SIDE)  # [B, N, P, G C]
        return regions.unflatten(-1, (self.groups, -1)).transpose(2, 3)


def make_sampling(
    kind: Sampling, query_dim: int, strides: Sequence[int], *, groups: int, points: int, adaptive: bool
) -> AdaptiveSampling | RegionSampling:
    """Make the sampling module for maps of these strides; without `adaptive`, queries share offsets."""
    if kind == "roi-align":
        return RegionSampling(groups=groups)
    axes = 3 if kind == "3d" else 2
    return AdaptiveSampling(query_dim, strides, groups=groups, points=points, axes=axes, adaptive=adaptive)


def lay_out(
    kind: Sampling,
    maps: Sequence[Float[Tensor, "B _ _ _"]],
    strides: Sequence[int],
    *,
    groups: int = 4,
    points: int = 32,
) -> Maps:
    """Lay out the maps of a batch as this sampling method reads them, once for all stages."""
    if kind == "roi-align":
        return Pyramid.of(maps, strides)
    if sampling_3d_runs(maps, groups=groups, points=points):
        return SampledLevels.of(maps, strides, narrowed(maps[0]))
    return FlatLevels.of(maps) if rows_are_faster(maps[0]) else [m.contiguous() for m in maps]
