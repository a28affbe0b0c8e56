"""Feature pyramids: against one cell at a time, where their weights start, and which levels reach which."""

import math

import pytest
import torch
from torch.testing import assert_close

from qdet.layers.conv.feature_pyramid import FPN, PAFPN

IN, C = (2, 3, 5), 4
SIZES = ((9, 12), (5, 6), (3, 3))  # odd ones too: a coarser level then has more than half the rows


def maps() -> list[torch.Tensor]:
    return [torch.randn(2, c, h, w).double() for c, (h, w) in zip(IN, SIZES, strict=True)]


def conv(layer: torch.nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    """One output cell at a time, cells beyond the border being zero."""
    (kernel, _), (stride, _), (pad, _) = layer.kernel_size, layer.stride, layer.padding
    height, width = ((n + 2 * pad - kernel) // stride + 1 for n in x.shape[-2:])
    out = layer.bias.view(1, -1, 1, 1).repeat(len(x), 1, height, width)
    for i in range(height):
        for j in range(width):
            for di in range(kernel):
                for dj in range(kernel):
                    y, z = i * stride + di - pad, j * stride + dj - pad
                    if 0 <= y < x.shape[2] and 0 <= z < x.shape[3]:
                        out[:, :, i, j] += x[:, :, y, z] @ layer.weight[:, :, di, dj].T
    return out


def fpn(pyramid: FPN, features: list[torch.Tensor]) -> list[torch.Tensor]:
    sums = [conv(layer, f) for layer, f in zip(pyramid.lateral, features, strict=True)]
    for j in (1, 0):
        (height, width), (coarse_height, coarse_width) = sums[j].shape[2:], sums[j + 1].shape[2:]
        for y in range(height):
            for x in range(width):
                nearest = y * coarse_height // height, x * coarse_width // width
                sums[j][:, :, y, x] += sums[j + 1][:, :, nearest[0], nearest[1]]
    return [conv(layer, m) for layer, m in zip(pyramid.output, sums, strict=True)]


def pafpn(pyramid: PAFPN, features: list[torch.Tensor]) -> list[torch.Tensor]:
    levels = fpn(pyramid.fpn, features)
    for j in (1, 2):
        levels[j] = levels[j] + conv(pyramid.down[j - 1], levels[j - 1])
    return [levels[0], conv(pyramid.output[0], levels[1]), conv(pyramid.output[1], levels[2])]


def shaken(pyramid):
    for p in pyramid.double().parameters():
        torch.nn.init.normal_(p, std=0.3)
    return pyramid


@pytest.mark.parametrize(("kind", "literal"), [(FPN, fpn), (PAFPN, pafpn)])
def test_matches_one_cell_at_a_time(kind, literal):
    pyramid, features = shaken(kind(IN, C)), maps()
    with torch.no_grad():
        got, want = pyramid(features), literal(pyramid, features)
    assert len(got) == len(IN)
    for a, b in zip(got, want, strict=True):
        assert_close(a, b)


def test_an_extra_level_is_every_second_cell_of_the_last():
    pyramid, features = shaken(FPN(IN, C, extra_levels=1)), maps()
    *_, p4, p5 = pyramid(features)
    assert p5.equal(torch.nn.functional.max_pool2d(p4, kernel_size=1, stride=2))


def test_two_extra_levels_halve_twice():
    pyramid, features = shaken(FPN(IN, C, extra_levels=2)), maps()
    *_, p4, p5, p6 = pyramid(features)
    assert p5.equal(p4[..., ::2, ::2])
    assert p6.equal(p4[..., ::4, ::4])


def reach(pyramid) -> list[list[bool]]:
    """Whether the output of level j (row) depends on the input of level i (column)."""
    rows = []
    for j in range(len(IN)):
        features = [f.requires_grad_() for f in maps()]
        pyramid(features)[j].sum().backward()
        rows.append([f.grad is not None and bool(f.grad.any()) for f in features])
    return rows


def test_an_fpn_hands_down_and_a_pafpn_hands_up_as_well():
    assert reach(FPN(IN, C).double()) == [[True] * 3, [False, True, True], [False, False, True]]
    assert reach(PAFPN(IN, C).double()) == [[True] * 3] * 3


@pytest.mark.parametrize("kind", [FPN, PAFPN])
def test_starts_with_xaviers_weights_and_no_bias(kind):
    convs = [m for m in kind((64, 128), 96).modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(convs) == (4 if kind is FPN else 6)
    for layer in convs:
        limit = math.sqrt(3 / (layer.in_channels * layer.kernel_size[0] ** 2))
        assert not layer.bias.any()
        assert layer.weight.abs().max() <= limit
        assert math.isclose(layer.weight.detach().std(), limit / math.sqrt(3), rel_tol=0.05)


def test_a_wrong_number_of_maps_is_caught():
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        FPN(IN, C)([f.float() for f in maps()[:2]])
