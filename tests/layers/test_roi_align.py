"""RoIAlign: against a slow reading of its definition, sample by sample, and against recorded numbers."""

import math

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from qdet.layers.regions.roi_align import Pyramid, region_levels, roi_align

STRIDES = (4, 8, 16, 32)


def maps(height: int = 40, width: int = 56) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [
        torch.randn(2, 3, math.ceil(height * 4 / s), math.ceil(width * 4 / s), dtype=torch.float64)
        for s in STRIDES
    ]


def boxes() -> torch.Tensor:
    """Boxes of all levels in, across, and outside images of 160 x 224; one empty, one inside out."""
    torch.manual_seed(1)
    centre = torch.rand(2, 40, 2, dtype=torch.float64) * torch.tensor([300.0, 240.0]) - 30
    size = 2 ** (1 + 9 * torch.rand(2, 40, 2, dtype=torch.float64))
    found = torch.cat((centre - size / 2, centre + size / 2), dim=-1)
    found[0, :3] = torch.tensor([[20, 20, 20, 20], [50, 50, 20, 30], [-900, -900, 900, 900]])
    return found


def value(x: torch.Tensor, row: float, column: float, outside: str) -> torch.Tensor:
    """Bilinear interpolation in one map [C, h, w], by hand."""
    h, w = x.shape[-2:]
    if outside == "zero" and not (-1 <= row <= h and -1 <= column <= w):
        return x.new_zeros(len(x))
    row, column = min(max(row, 0), h - 1), min(max(column, 0), w - 1)
    top, left = int(row), int(column)
    total = x.new_zeros(len(x))
    for i in {top, min(top + 1, h - 1)}:
        for j in {left, min(left + 1, w - 1)}:
            total = total + x[:, i, j] * (1 - abs(row - i)) * (1 - abs(column - j))
    return total


def slow(
    x: torch.Tensor, stride: int, box: torch.Tensor, size: int, samples: int, outside: str = "zero"
) -> torch.Tensor:
    left, top, right, bottom = (c / stride - 0.5 for c in box.tolist())
    cells = []
    for i in range(size):
        for j in range(size):
            rows = [top + (bottom - top) * (i + (k + 0.5) / samples) / size for k in range(samples)]
            columns = [left + (right - left) * (j + (k + 0.5) / samples) / size for k in range(samples)]
            cells.append(sum(value(x, r, c, outside) for r in rows for c in columns) / samples**2)
    return torch.stack(cells)


@pytest.mark.parametrize(("size", "samples", "outside"), [(7, 2, "zero"), (3, 1, "zero"), (3, 2, "border")])
def test_every_box_reads_its_own_level(size, samples, outside):
    features, where = maps(), boxes()
    found = roi_align(Pyramid.of(features, STRIDES), where, size=size, samples=samples, outside=outside)
    levels = region_levels(where, STRIDES)
    assert set(levels.flatten().tolist()) == {0, 1, 2, 3}
    for image in range(2):
        for n in range(0, 40, 3):
            level = levels[image, n]
            want = slow(features[level][image], STRIDES[level], where[image, n], size, samples, outside)
            assert_close(found[image, n], want, rtol=1e-9, atol=1e-9)


def test_is_the_recorded_one(parity_dir):
    recorded = load_file(parity_dir / "roi_align.safetensors")
    image, corners = recorded["inputs/rois"].double().split((1, 4), dim=1)
    pyramid = Pyramid.of([recorded["inputs/x"].double()], strides=[4])
    found = roi_align(pyramid, corners.expand(2, -1, -1))[image.long().squeeze(1), range(len(image))]
    want = recorded["outputs/aligned_True_sr2"]
    assert_close(found.mT.unflatten(-1, (7, 7)), want, rtol=1e-9, atol=1e-9)


def test_gradient_is_that_of_the_slow_reading():
    features, where = [x.requires_grad_() for x in maps()], boxes()
    weight = torch.randn(2, 4, 9, 3, dtype=torch.float64)
    where = where[:, ::10].requires_grad_()
    fast = roi_align(Pyramid.of(features, STRIDES), where, size=3)
    (fast * weight).sum().backward()
    assert where.grad is None
    levels, total = region_levels(where, STRIDES), torch.zeros(())
    for image in range(2):
        for n in range(4):
            level = levels[image, n]
            read = slow(features[level][image], STRIDES[level], where[image, n], 3, 2)
            total = total + (read * weight[image, n]).sum()
    for x, want in zip(features, torch.autograd.grad(total, features, allow_unused=True), strict=True):
        assert_close(x.grad, torch.zeros_like(x) if want is None else want, rtol=1e-9, atol=1e-9)


def test_boxes_can_get_a_gradient():
    features, where = maps(), boxes()[:, 5:9]
    pyramid = Pyramid.of(features, STRIDES)
    where[:, :, 2:] = where[:, :, :2] + 60 + 30 * torch.rand(2, 4, 2)  # of one level, however they move
    torch.autograd.gradcheck(
        lambda b: roi_align(pyramid, b, size=2, outside="border", box_gradient=True), where.requires_grad_()
    )


def test_levels_follow_the_size_of_boxes():
    sides = torch.tensor([1.0, 111.0, 112.0, 223.0, 224.0, 447.0, 448.0, 5000.0])
    square = torch.stack((sides * 0, sides * 0, sides, sides), dim=-1).unsqueeze(0)
    assert region_levels(square, (4, 8, 16, 32)).tolist() == [[0, 0, 1, 1, 2, 2, 3, 3]]
    assert region_levels(square, (8, 16)).tolist() == [[0, 0, 0, 0, 1, 1, 1, 1]]
    assert region_levels(square * math.nan, STRIDES).tolist() == [[0] * 8]


def test_samples_stay_in_fp32_under_autocast():
    features, where = [x.float() for x in maps()], boxes().float()
    want = roi_align(Pyramid.of(features, STRIDES), where)
    with torch.autocast("cpu", torch.bfloat16):
        found = roi_align(Pyramid.of([x.bfloat16() for x in features], STRIDES), where)
    assert found.dtype == torch.float32
    assert_close(found, want, rtol=0, atol=0.02)
