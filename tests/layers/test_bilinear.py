"""Interpolation that a GPU repeats bit for bit, against PyTorch's own."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from qdet.layers.bilinear import gather_at, interpolate_at


@pytest.mark.parametrize("outside", ["zeros", "border"])
@given(st.integers(1, 7), st.integers(1, 7), st.integers(0, 9), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_values_and_gradients_are_grid_samples(outside, height, width, points, seed):
    torch.manual_seed(seed)
    maps = torch.randn(2, 3, height, width, dtype=torch.float64, requires_grad=True)
    grid = (3 * torch.rand(2, points, 2, 2, dtype=torch.float64) - 1.5).requires_grad_()
    direction = torch.randn(2, 3, points, 2, dtype=torch.float64)
    expected = F.grid_sample(maps, grid, padding_mode=outside, align_corners=False)
    found = gather_at(maps, grid, outside=outside)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(interpolate_at(maps, grid, outside=outside), expected, rtol=0, atol=0)
    ours, theirs = (torch.autograd.grad((y * direction).sum(), (maps, grid)) for y in (found, expected))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("outside", ["zeros", "border"])
def test_a_nan_position_reads_nan_and_affects_no_other(outside):
    grid = torch.zeros(1, 2, 1, 2)
    grid[0, 0, 0, 1] = torch.nan
    found = gather_at(torch.ones(1, 4, 5, 6), grid, outside=outside)
    assert found[0, :, 0].isnan().all()
    assert found[0, :, 1].eq(1).all()


def test_a_nan_at_the_border_reaches_values_and_gradients():
    """So its step is skipped. PyTorch's backward pass on a CPU takes it for an index: the process ends."""
    maps = torch.rand(1, 2, 5, 6, requires_grad=True)
    grid = torch.rand(1, 3, 4, 2) * 2 - 1
    grid[0, 1, 2, 0] = grid[0, 2, 3, 1] = torch.nan
    grid.requires_grad_(True)
    found = interpolate_at(maps, grid, outside="border")
    lost = grid.detach().isnan().any(-1).unsqueeze(1).expand_as(found)
    assert found[lost].isnan().all()
    expected = F.grid_sample(maps, grid.nan_to_num(), padding_mode="border", align_corners=False)
    torch.testing.assert_close(found[~lost], expected[~lost])
    found.square().sum().backward()
    assert maps.grad is not None
    assert maps.grad.isnan().any()
