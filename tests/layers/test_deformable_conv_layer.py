"""Deformable convolution: against a scalar loop, plain convolution and finite differences."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from qdet.layers.conv.deformable_conv import DeformableConv2d, deform_conv2d

SETTINGS = {"stride": 2, "padding": 1, "dilation": 1}


def bilinear(plane: torch.Tensor, y: float, x: float) -> float:
    """Interpolate one channel; pixels outside are zero."""
    total = 0.0
    for row, column in itertools.product(
        (math.floor(y), math.floor(y) + 1), (math.floor(x), math.floor(x) + 1)
    ):
        if 0 <= row < plane.shape[0] and 0 <= column < plane.shape[1]:
            total += (1 - abs(y - row)) * (1 - abs(x - column)) * plane[row, column].item()
    return total


def literal(x, offset, mask, weight, groups, stride, padding, dilation):
    """The definition, one product at a time, for a single group of offsets."""
    batch, (out, per_group, k, _) = x.shape[0], weight.shape
    height, width = offset.shape[-2:]
    y = torch.zeros(batch, out, height, width, dtype=torch.float64)
    for b, o, i, j in itertools.product(range(batch), range(out), range(height), range(width)):
        first = o // (out // groups) * per_group
        for c, tap in itertools.product(range(per_group), range(k * k)):
            row = i * stride - padding + tap // k * dilation + offset[b, 2 * tap, i, j].item()
            column = j * stride - padding + tap % k * dilation + offset[b, 2 * tap + 1, i, j].item()
            sample = bilinear(x[b, first + c], row, column) * mask[b, tap, i, j]
            y[b, o, i, j] += weight[o, c, tap // k, tap % k] * sample
    return y


def test_equals_a_scalar_loop_in_range_and_out_of_it():
    x = torch.randn(1, 4, 5, 4, dtype=torch.float64)
    weight = torch.randn(6, 2, 3, 3, dtype=torch.float64)
    offset = 3 * torch.randn(1, 18, 3, 2, dtype=torch.float64)
    mask = torch.rand(1, 9, 3, 2, dtype=torch.float64)
    got = deform_conv2d(x, offset, weight, mask=mask, groups=2, **SETTINGS)
    want = literal(x, offset, mask, weight, groups=2, **SETTINGS)
    torch.testing.assert_close(got, want, atol=1e-10, rtol=0)


@pytest.mark.parametrize(("stride", "dilation", "groups"), [(1, 1, 1), (2, 1, 4), (1, 2, 2)])
def test_starts_as_a_plain_convolution(stride, dilation, groups):
    layer = DeformableConv2d(
        8, 12, stride=stride, padding=dilation, dilation=dilation, groups=groups
    ).double()
    x = torch.randn(2, 8, 7, 9, dtype=torch.float64)
    want = F.conv2d(x, layer.weight, None, stride, dilation, dilation, groups)
    torch.testing.assert_close(layer(x), want, atol=1e-10, rtol=0)


def test_modulation_starts_at_one_half():
    layer = DeformableConv2d(4, 4, modulated=True).double()
    x = torch.randn(1, 4, 6, 6, dtype=torch.float64)
    torch.testing.assert_close(layer(x), F.conv2d(x, layer.weight, padding=1) / 2, atol=1e-10, rtol=0)


def test_gradients_are_those_of_finite_differences():
    x = torch.randn(1, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    # Between pixels, where bilinear interpolation is smooth.
    offset = (torch.randint(-1, 2, (1, 18, 3, 4)) + 0.2 + 0.6 * torch.rand(1, 18, 3, 4)).double()
    mask = torch.rand(1, 9, 3, 4, dtype=torch.float64, requires_grad=True)
    offset.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x, o, w, m: deform_conv2d(x, o, w, mask=m, padding=1, groups=2), (x, offset, weight, mask)
    )


def test_offsets_stay_in_float32_under_autocast():
    layer = DeformableConv2d(4, 4)
    torch.nn.init.normal_(layer.conv_offset.weight)
    x = torch.randn(1, 4, 8, 8).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        offset, _ = layer.offsets(x)
        assert offset.dtype == torch.float32
        assert layer(x).dtype == torch.bfloat16
    assert torch.equal(offset, layer.conv_offset(x.float()))


def test_channels_must_split_over_the_groups_of_offsets():
    with pytest.raises(ValueError, match="8, 3"):
        DeformableConv2d(8, 8, offset_groups=3)
