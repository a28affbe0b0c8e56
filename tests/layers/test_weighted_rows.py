"""Sums of weighted rows against `grid_sample` and plain indexing, forward and backward, in float64."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from qdet.detectors.adamixer.sampling_3d import FlatLevels, sample_levels
from qdet.layers.attention import deformable
from qdet.layers.attention.deformable import gather_points
from qdet.layers.token_levels import flatten_maps, token_levels
from qdet.layers.weighted_rows import corner_cells, rows_are_faster, sum_rows
from qdet.types import PaddedSizes

STRIDES = (4, 8, 16, 32)


def gradients(result, *inputs):
    generator = torch.Generator().manual_seed(7)
    weight = torch.randn(result.shape, dtype=result.dtype, generator=generator)
    return torch.autograd.grad((result * weight).sum(), inputs)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 9), st.integers(0, 7), st.integers(1, 5), st.integers(1, 6), st.integers(0, 999))
def test_sums_equal_plain_indexing(count, sums, terms, channels, seed):
    g = torch.Generator().manual_seed(seed)
    table = torch.randn(count, channels, dtype=torch.float64, generator=g).requires_grad_()
    shares = torch.randn(sums, terms, dtype=torch.float64, generator=g).requires_grad_()
    rows = torch.randint(0, count, (sums, terms), generator=g).int()
    got, want = sum_rows(table, rows, shares), (table[rows.long()] * shares.unsqueeze(-1)).sum(1)
    assert_close(got, want)
    for a, b in zip(gradients(got, table, shares), gradients(want, table, shares), strict=True):
        assert_close(a, b)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=3), st.integers(0, 999))
def test_corners_read_what_grid_sample_reads(sizes, seed):
    g = torch.Generator().manual_seed(seed)
    maps = [torch.randn(1, 2, h, w, dtype=torch.float64, generator=g) for h, w in sizes]
    x, y = 12 * torch.rand(2, len(sizes), 9, dtype=torch.float64, generator=g) - 3
    x[:, 0], y[:, 1] = 1e12, -1e12
    cells, shares = corner_cells(x, y, sizes)
    table = torch.cat([m[0].flatten(1).T for m in maps])
    assert ((cells >= 0) & (cells < len(table))).all()
    found = sum_rows(table, cells.flatten(1).T.contiguous(), shares.flatten(1).T.contiguous())
    for found_here, m, at_x, at_y in zip(found.split(9), maps, x, y, strict=True):
        h, w = m.shape[2:]
        grid = torch.stack(((2 * at_x + 1) / w - 1, (2 * at_y + 1) / h - 1), dim=-1)[None, None]
        assert_close(found_here.T, F.grid_sample(m, grid, align_corners=False)[0, :, 0])


def test_a_nan_reads_nan_and_no_other_cell():
    cells, shares = corner_cells(torch.tensor([[math.nan]]), torch.tensor([[0.0]]), [(2, 2)])
    assert shares.isnan().all()
    assert ((cells >= 0) & (cells < 4)).all()


@pytest.mark.parametrize("sizes", [((16, 24), (8, 12), (4, 6), (2, 3)), ((3, 1), (2, 1), (1, 1), (1, 1))])
def test_3d_sampling_is_the_same_from_maps_and_from_rows(sizes):
    torch.manual_seed(0)
    maps = [torch.randn(2, 6, h, w, dtype=torch.float64).requires_grad_() for h, w in sizes]
    extent = torch.tensor([sizes[0][1] * 4.8, sizes[0][0] * 4.8, 8.0])
    points = (torch.rand(2, 5, 2, 3, 3, dtype=torch.float64) * extent - extent / 12).requires_grad_()
    one, other = sample_levels(points, FlatLevels.of(maps), STRIDES), sample_levels(points, maps, STRIDES)
    assert_close(one, other)
    for a, b in zip(gradients(one, points, *maps), gradients(other, points, *maps), strict=True):
        assert_close(a, b)


def test_deformable_attention_is_the_same_from_maps_and_from_rows(monkeypatch):
    torch.manual_seed(0)
    maps = [torch.randn(2, 6, h, w, dtype=torch.float64) for h, w in ((5, 7), (3, 4), (1, 1))]
    levels = token_levels(maps, PaddedSizes(torch.tensor([[40, 56], [32, 40]]), (40, 56)))
    value = flatten_maps(maps).requires_grad_()
    points = (1.4 * torch.rand(2, 4, 3, 3, 2, 2, dtype=torch.float64) - 0.2).requires_grad_()
    weights = torch.rand(2, 4, 3, 3, 2, dtype=torch.float64).requires_grad_()
    one = gather_points(value, points, weights, levels)
    monkeypatch.setattr(deformable, "rows_are_faster", lambda _: False)
    other = gather_points(value, points, weights, levels)
    assert_close(one, other)
    for a, b in zip(
        gradients(one, value, points, weights), gradients(other, value, points, weights), strict=True
    ):
        assert_close(a, b)


def test_rows_are_for_tensors_with_numbers_on_a_cpu():
    assert rows_are_faster(torch.zeros(1))
    assert not rows_are_faster(torch.zeros(1, device="meta"))
    assert not rows_are_faster(torch.zeros(1).bfloat16())
