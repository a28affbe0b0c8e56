"""Pyramid convolution: what a level sees of itself and of its neighbours, and from where."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from qdet.backbones import ResNetConfig
from qdet.detectors import DynamicDETRConfig
from qdet.detectors.complexity import count_parameters
from qdet.detectors.dynamic_detr.model import DynamicEncoderLayer
from qdet.detectors.dynamic_detr.pyramid_conv import PyramidConv, TapConv
from qdet.errors import ConfigError

C = 16


def levels(*sizes: tuple[int, int]) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(2, C, h, w).double() for h, w in sizes]


def plain(conv: TapConv, x: torch.Tensor) -> torch.Tensor:
    return F.group_norm(F.conv2d(x, conv.weight, stride=conv.stride, padding=1), 16)


@pytest.mark.parametrize(
    "sizes", [((12, 16), (6, 8), (3, 4)), ((13, 11), (7, 6), (4, 3))], ids=["even", "odd"]
)
def test_starts_as_plain_convolutions(sizes):
    """Every tap then counts half, which the norm takes back but for its epsilon."""
    finer, level, coarser = levels(*sizes)
    layer = PyramidConv(C).double()
    for conv in (layer.own, layer.finer, layer.coarser):
        torch.nn.init.normal_(conv.weight)
    own, down, up = layer(level, finer, coarser)
    assert_close(own, plain(layer.own, level), rtol=1e-4, atol=1e-4)
    assert_close(down, plain(layer.finer, finer), rtol=1e-4, atol=1e-4)
    enlarged = F.interpolate(plain(layer.coarser, coarser), size=sizes[1], mode="bilinear")
    assert_close(up, enlarged, rtol=1e-4, atol=1e-4)


def test_level_itself_says_where_its_neighbours_are_read():
    """All taps moved by (2, 1) cells: inside, each map is that of its source moved by as much."""
    finer, level, coarser = levels((32, 32), (16, 16), (8, 8))
    layer = PyramidConv(C).double()
    layer.offset.bias.data[:18] = torch.tensor((2.0, 1.0)).repeat(9)
    for conv, x in ((layer.own, level), (layer.finer, finer), (layer.coarser, coarser)):
        conv.norm = torch.nn.Identity()
        offset, mask = layer.taps(level)
        if conv is layer.coarser:
            offset, mask = offset[..., ::2, ::2], mask[..., ::2, ::2]
        found = conv(x, offset, mask)
        want = F.conv2d(x.roll((-2, -1), (2, 3)), conv.weight, stride=conv.stride, padding=1) / 2
        inner = (..., slice(1, -3), slice(1, -3))
        assert_close(found[inner], want[inner])


def test_levels_at_the_ends_have_one_neighbour():
    layer = DynamicEncoderLayer(C).double()
    x = levels((8, 8), (4, 4), (2, 2))
    y = layer(x)
    assert [a.shape for a in y] == [a.shape for a in x]
    finest, coarsest = (
        torch.autograd.grad(y[i].sum(), layer.conv.parameters(), allow_unused=True, retain_graph=True)
        for i in (0, 2)
    )
    names = [name for name, _ in layer.conv.named_parameters()]
    assert {n for n, g in zip(names, finest, strict=True) if g is None} == {
        n for n in names if n.startswith("finer")
    }
    assert {n for n, g in zip(names, coarsest, strict=True) if g is None} == {
        n for n in names if n.startswith("coarser")
    }


def test_one_layer_takes_the_mean_of_weighed_maps():
    layer, (finer, level) = DynamicEncoderLayer(C).double(), levels((8, 6), (4, 3))
    first = layer([finer, level])[1]
    a, b = layer.conv(level, finer, None)
    assert_close(first, layer.activation((layer.scale(a) + layer.scale(b)) / 2))


def test_dilated_backbones_have_no_such_pyramid():
    with pytest.raises(ConfigError, match="dilate-c5 must be off"):
        DynamicDETRConfig(backbone=ResNetConfig(dilate_c5=True))


@torch.no_grad()
def test_levels_from_stride_8_to_128():
    """As many parameters as P2 to P6 less the two convolutions of P2, and no cell of it."""
    p2, p3 = (DynamicDETRConfig(pyramid=pyramid).demo().build(5).eval() for pyramid in ("p2-p6", "p3-p7"))
    assert (p2.strides, p3.strides) == ((4, 8, 16, 32, 64), (8, 16, 32, 64, 128))
    width, finest = p2.config.width, p2.backbone.channels[0]
    fewer = width * (finest + 1) + width * (9 * width + 1)
    assert count_parameters(p2) - count_parameters(p3) == fewer
    maps = []
    p3.neck.register_forward_hook(lambda _, args, out: maps.extend(out))
    stages = p3(torch.randint(0, 256, (1, 3, 128, 160), dtype=torch.uint8), torch.tensor([[128, 160]]))
    assert [tuple(m.shape[-2:]) for m in maps] == [(16, 20), (8, 10), (4, 5), (2, 3), (1, 2)]
    assert stages[-1].boxes_xyxy.isfinite().all()
