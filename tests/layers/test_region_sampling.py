"""RoIAlign in the shape that AdaMixer mixes: every group its own channels, every cell a point."""

import torch
from torch.testing import assert_close

from qdet.detectors.adamixer.sampling import RegionSampling, lay_out
from qdet.detectors.adamixer.xyzr import decode_xyzr
from qdet.layers.regions.roi_align import Pyramid, roi_align

B, N, G, C, D = 2, 3, 2, 5, 16
STRIDES = (4, 8, 16)


def test_points_are_the_cells_row_by_row_and_groups_slices_of_the_channels():
    maps = [torch.randn(B, G * C, 256 // s, 320 // s, dtype=torch.float64) for s in STRIDES]
    low = torch.tensor([40.0, 40, 4, -1], dtype=torch.float64)
    xyzr = low + torch.rand(B, N, 4, dtype=torch.float64) * torch.tensor([200, 150, 4, 2])
    sampling = RegionSampling(groups=G)
    got = sampling(torch.randn(B, N, D).double(), xyzr, lay_out("roi-align", maps, STRIDES))
    assert got.shape == (B, N, G, sampling.points, C)
    regions = roi_align(Pyramid.of(maps, STRIDES), decode_xyzr(xyzr))
    for g in range(G):
        for i in range(7):
            for j in range(7):
                assert_close(got[:, :, g, 7 * i + j], regions[:, :, 7 * i + j, g * C : (g + 1) * C])


def test_sampling_ignores_the_query_and_has_no_parameters():
    maps = [torch.randn(B, G * C, 64 // s, 64 // s) for s in STRIDES]
    sampling, pyramid = RegionSampling(groups=G), lay_out("roi-align", maps, STRIDES)
    xyzr = torch.tensor([30, 30, 4, 0.2]).expand(B, N, 4)
    assert not list(sampling.parameters())
    one, other = (sampling(torch.randn(B, N, D), xyzr, pyramid) for _ in range(2))
    assert one.equal(other)


def test_other_ways_of_sampling_read_the_maps_as_they_are():
    maps = [torch.randn(B, G * C, 64 // s, 64 // s) for s in STRIDES]
    assert lay_out("3d", maps, STRIDES) is maps
