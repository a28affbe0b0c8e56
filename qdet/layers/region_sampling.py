"""Sampling on a grid inside each box: what RoIAlign reads, in the shape that AdaMixer mixes.

B images   N queries   G groups   P = 49 points   C channels per group   D query width
"""

from jaxtyping import Float
from torch import Tensor, nn

from qdet.detectors.adamixer.xyzr import decode_xyzr
from qdet.layers.regions.roi_align import Pyramid, roi_align

SIDE = 7
"""Cells along each side of a region, as in the detectors whose RoIAlign this is."""


class RegionSampling(nn.Module):
    """RoIAlign of the boxes, each from the one level that fits its size: nothing for the query to choose.

    AdaMixer's ablation (CVPR 2022) names RoIAlign and no more. Read literally that is 7 x 7 cells of 2 x 2
    samples and the levels of Lin et al. (2017), as in Sparse R-CNN. Every group gets all cells of its slice
    of the channels, so that there are 49 points to mix, whatever the model else samples.
    """

    points = SIDE**2

    def __init__(self, *, groups: int = 4) -> None:
        super().__init__()
        self.groups = groups

    def reset_parameters(self) -> None:
        """Do nothing: a grid has no weights."""

    def forward(
        self, query: Float[Tensor, "B N D"], xyzr: Float[Tensor, "B N 4"], features: Pyramid
    ) -> Float[Tensor, "B N G P C"]:
        """Return each box's cells of maps with G x C channels; the query itself is not asked."""
        regions = roi_align(features, decode_xyzr(xyzr), size=SIDE)  # [B, N, P, G C]
        return regions.unflatten(-1, (self.groups, -1)).transpose(2, 3)
