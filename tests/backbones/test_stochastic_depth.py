"""Where Swin drops paths: in both branches, or as AdaMixer's authors do, in MLPs alone."""

import pytest
import torch

from qdet.backbones import SwinConfig
from qdet.backbones.swin.model import SwinBlock

RATE = 0.999999
"""So that every branch that may be dropped is."""


def block(**settings):
    torch.manual_seed(3)
    return SwinBlock(16, 2, window=4, shift=0, mlp_ratio=2.0, drop_path=RATE, **settings).train()


@pytest.mark.parametrize("drop_attention", [True, False])
def test_a_dropped_branch_adds_nothing(drop_attention):
    x, swin = torch.rand(3, 8, 8, 16), block(drop_attention=drop_attention)
    wanted = x if drop_attention else x + swin.attn(swin.norm1(x))
    torch.testing.assert_close(swin(x), wanted)
    assert not torch.allclose(swin.attn(swin.norm1(x)), torch.zeros_like(x), atol=1e-3)


def test_nothing_is_dropped_in_evaluation():
    x = torch.rand(2, 8, 8, 16)
    torch.testing.assert_close(block(drop_attention=False).eval()(x), block(drop_attention=True).eval()(x))


def test_rates_grow_linearly_over_the_blocks_of_either_kind():
    for drop_attention in (True, False):
        with torch.device("meta"):
            swin = SwinConfig(size="t", drop_path=0.2, drop_attention=drop_attention).build()
        blocks = [inner for stage in swin.layers for inner in stage.blocks]
        rates = [inner.drop_path.rate for inner in blocks]
        assert rates == pytest.approx([0.2 * i / 11 for i in range(12)])
        kept = [isinstance(inner.drop_attention, torch.nn.Identity) for inner in blocks]
        assert kept == [not drop_attention] * 12
