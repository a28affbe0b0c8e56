"""RoIAlign in the shape that AdaMixer mixes: every group its own channels, every cell a point."""

import torch
from torch.testing import assert_close

from qdet.detectors.adamixer.sampling import RegionSampling, lay_out
from qdet.detectors.adamixer.xyzr import place
from qdet.layers.regions.roi_align import Pyramid, roi_align

B, N, G, C, D = 2, 3, 2, 5, 16
STRIDES = (4, 8, 16)


def test_points_are_the_cells_row_by_row_and_groups_slices_of_the_channels():
    maps = [torch.randn(B, G * C, 256 // s, 320 // s, dtype=torch.float64) for s in STRIDES]
    low = torch.tensor([40.0, 40, 4, -1], dtype=torch.float64)
    xyzr = low + torch.rand(B, N, 4, dtype=torch.float64) * torch.tensor([200, 150, 4, 2])
    sampling = RegionSampling(groups=G)
    boxes = place(xyzr)
    got = sampling(torch.randn(B, N, D).double(), boxes, lay_out("roi-align", maps, STRIDES))
    assert got.shape == (B, N, G, sampling.points, C)
    regions = roi_align(Pyramid.of(maps, STRIDES), boxes.xyxy)
    for g in range(G):
        for i in range(7):
            for j in range(7):
                assert_close(got[:, :, g, 7 * i + j], regions[:, :, 7 * i + j, g * C : (g + 1) * C])


def test_sampling_ignores_the_query_and_has_no_parameters():
    maps = [torch.randn(B, G * C, 64 // s, 64 // s) for s in STRIDES]
    sampling, pyramid = RegionSampling(groups=G), lay_out("roi-align", maps, STRIDES)
    boxes = place(torch.tensor([30, 30, 4, 0.2]).expand(B, N, 4))
    assert not list(sampling.parameters())
    one, other = (sampling(torch.randn(B, N, D), boxes, pyramid) for _ in range(2))
    assert one.equal(other)


def test_sampling_at_points_reads_the_maps_as_rows_of_one_table_on_a_cpu():
    maps = [torch.randn(B, G * C, 64 // s, 64 // s) for s in STRIDES]
    levels = lay_out("3d", maps, STRIDES)
    assert levels.sizes_hw == tuple((64 // s, 64 // s) for s in STRIDES)
    parts = levels.tokens.split([h * w for h, w in levels.sizes_hw], dim=1)
    for tokens, one, (h, w) in zip(parts, maps, levels.sizes_hw, strict=True):
        assert tokens.mT.reshape(B, G * C, h, w).equal(one)


def test_elsewhere_it_reads_contiguous_maps():
    maps = [torch.randn(B, 64 // s, 64 // s, G * C, device="meta").permute(0, 3, 1, 2) for s in STRIDES]
    assert all(m.is_contiguous() for m in lay_out("3d", maps, STRIDES))
