"""The neck of several levels: what each reads, and how it starts."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from qdet.layers.conv.multi_level_neck import MultiLevelNeck

CHANNELS = (8, 12, 16)


def features() -> list[torch.Tensor]:
    return [torch.randn(2, c, 16 // s, 20 // s) for c, s in zip(CHANNELS, (1, 2, 4), strict=True)]


@pytest.mark.parametrize("levels", [3, 4, 5])
def test_levels_beyond_the_backbones(levels):
    neck, maps = MultiLevelNeck(CHANNELS, 32, levels=levels, norm_groups=4), features()
    got = neck(maps)
    shapes = [(16, 20), (8, 10), (4, 5), (2, 3), (1, 2)][:levels]
    assert [m.shape for m in got] == [(2, 32, *shape) for shape in shapes]
    sources = [*maps, maps[-1], *got[3:]]  # the fourth level reads C5 as it is, the fifth the fourth
    for level, source, out in zip(neck.levels, sources, got, strict=False):
        stride = 1 if level.conv.kernel_size == (1, 1) else 2
        plain = F.conv2d(source, level.conv.weight, level.conv.bias, stride, padding=stride - 1)
        assert_close(out, F.group_norm(plain, 4))


def test_the_last_map_alone_makes_all_levels():
    neck = MultiLevelNeck(CHANNELS[-1:], 32, levels=1, norm_groups=4)
    assert [m.shape for m in neck(features()[-1:])] == [(2, 32, 4, 5)]


def test_keeps_the_variance():
    neck = MultiLevelNeck((256,), 256, levels=2)
    for level in neck.levels:
        fan = level.conv.weight[0].numel() + level.conv.weight[:, 0].numel()
        assert level.conv.weight.std().item() == pytest.approx((2 / fan) ** 0.5, rel=0.02)
        assert not level.conv.bias.any()


def test_stays_in_fp32_under_autocast():
    neck = MultiLevelNeck(CHANNELS, 32, levels=4)
    with torch.autocast("cpu", torch.bfloat16):
        assert {m.dtype for m in neck(features())} == {torch.float32}
