"""Attention maps are the weights that layers use: they reproduce outputs, and are torch's own."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qdet.detectors.anchor_detr.level_attention import OverLevels
from qdet.detectors.anchor_detr.row_column_attention import RowColumnCrossAttention
from qdet.detectors.smca.scale_selection import ScaleSelectingAttention
from qdet.layers.attention.multi_head import CrossAttention, MultiheadAttention, split_heads
from qdet.layers.transformer.conditional import ConditionalCrossAttention
from qdet.layers.transformer.layers import DecoderLayer
from qdet.visualize.looking.attention import AttentionMaps
from qdet.visualize.looking.look import available, look
from tests.support.detector_variants import CLASSES, DEFAULT, SIZES, VARIANTS, images, shaken

ORIGINAL = torch.tensor([[256, 192], [50, 64]])


def values_of(layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Tensor, nn.Linear]:
    """Project the values that a layer reads, [B, M, K, d], and return its last projection."""
    if isinstance(layer, ConditionalCrossAttention):
        return split_heads(layer.value(inputs[3]), layer.heads), layer.out
    inner = layer.attention if isinstance(layer, CrossAttention | RowColumnCrossAttention) else layer
    memory = inputs[3].flatten(1, 2) if isinstance(layer, RowColumnCrossAttention) else inputs[2]
    weight, bias = inner.qkv_weight[-memory.shape[-1] :], inner.qkv_bias[-memory.shape[-1] :]
    return split_heads(F.linear(memory, weight, bias), inner.heads), inner.out


NAMES = sorted(name for name in DEFAULT if "attention" in available(VARIANTS[name][0].build(CLASSES)))


@pytest.mark.parametrize("name", NAMES)
def test_maps_add_up_to_one_and_reproduce_the_output_of_every_layer(name):
    detector = shaken(VARIANTS[name][0].build(CLASSES)).double().eval()
    calls: list[tuple[nn.Module, tuple, Tensor]] = []
    for layer in (m.cross_attention.update for m in detector.modules() if isinstance(m, DecoderLayer)):
        inner = layer.attention if isinstance(layer, OverLevels) else layer
        inner.register_forward_hook(lambda m, inputs, output: calls.append((m, inputs, output)))
    looks = look(detector, images().double() / 100, SIZES, ORIGINAL, what="attention")
    assert len(calls) == len(looks[0].seen)
    for stage, (layer, inputs, output) in enumerate(calls):
        values, out = values_of(layer, inputs)
        for image, one in enumerate(looks):
            maps = one.seen[stage].maps
            assert sum(m.sum((-2, -1)) for m in maps) == pytest.approx(1, abs=1e-10)
            weights = torch.cat([torch.from_numpy(m).flatten(-2) for m in maps], -1).transpose(0, 1)
            found = out((weights @ values[image]).transpose(0, 1).flatten(1))
            torch.testing.assert_close(found, output[image], atol=1e-10, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_no_weight_lies_on_padding(name):
    detector = shaken(VARIANTS[name][0].build(CLASSES)).eval()
    for (height, width), one in zip(
        SIZES.tolist(), look(detector, images(), SIZES, ORIGINAL, what="attention"), strict=True
    ):
        for cells, stride in zip(one.seen[-1].maps, one.seen[-1].strides, strict=True):
            assert (cells[..., -(-height // stride) :, :] == 0).all()
            assert (cells[..., :, -(-width // stride) :] == 0).all()
            assert cells.shape[-2:] == (128 // stride, 128 // stride)


@pytest.mark.parametrize("masked", [False, True])
def test_weights_are_those_of_torchs_attention(masked):
    ours = MultiheadAttention(16, heads=4).double()
    theirs = nn.MultiheadAttention(16, 4, batch_first=True).double()
    theirs.in_proj_weight, theirs.in_proj_bias, theirs.out_proj = ours.qkv_weight, ours.qkv_bias, ours.out
    nn.init.normal_(ours.qkv_bias)
    query, key, value = (torch.randn(2, n, 16).double() for n in (5, 9, 9))
    mask = torch.arange(9) >= torch.tensor([[9], [6]]) if masked else None
    expected = theirs(query, key, value, mask, need_weights=True, average_attn_weights=False)[1]
    torch.testing.assert_close(ours.weights(query, key, value, mask), expected)


def test_scales_share_their_weights_as_selected():
    layer = ScaleSelectingAttention(8, heads=2).double()
    x, memory = torch.randn(1, 3, 8).double(), torch.randn(1, 10, 8).double()
    masks, shares = [torch.zeros(1, 1, 3, n).double() for n in (6, 4)], torch.tensor([0.25, 0.75]).double()
    weights = layer.weights(x, x, memory, memory, masks, shares.expand(1, 3, 2))
    assert weights[..., :6].sum(-1).detach().numpy() == pytest.approx(0.25)
    assert weights[..., 6:].sum(-1).detach().numpy() == pytest.approx(0.75)


def test_levels_are_laid_side_by_side_each_with_its_share():
    layer = OverLevels(CrossAttention(8, heads=2), 8, levels=3).double()
    x, memory = torch.randn(2, 5, 8).double(), torch.randn(6, 7, 8).double()
    position = torch.zeros(1, 5, 8).double()
    weights = layer.weights(x, position, memory, memory, None)
    assert weights.shape == (2, 2, 5, 21)
    alone = layer.attention.weights(x[1:], position, memory[4:5], memory[4:5], None)
    torch.testing.assert_close(weights[1:, ..., 7:14], alone / 3)


def test_attention_on_the_image_keeps_its_sum_and_its_place():
    cells = np.zeros((1, 2, 4, 6))
    cells[0, 0, 1, 2], cells[0, 1, 1, 2] = 1, 1
    heat = AttentionMaps((cells,), (16,), (64, 96)).on_image(0)
    assert heat.shape == (64, 96)
    assert heat.sum() == pytest.approx(1)
    y, x = np.unravel_index(heat.argmax(), heat.shape)
    assert abs(y + 0.5 - 24) < 1
    assert abs(x + 0.5 - 40) < 1
    cut = AttentionMaps((cells,), (16,), (40, 96)).on_image(0)
    assert (cut == heat[:40]).all()
