"""DETR's encoder: tokens of a map, their positions, and positions that the tokens scale."""

import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from qdet.layers.position import embed_reference
from qdet.layers.transformer.encoder import SingleScaleEncoder, as_tokens
from qdet.types import PaddedSizes

GOLDEN = {  # features 0..3 of the row and of the column of the first of 2 x 3 cells, width 256
    10_000.0: ((0.0, -1.0, 0.40875, -0.91265), (0.86603, -0.5, 0.97065, -0.24049)),
    20.0: ((0.0, -1.0, 0.14317, -0.98970), (0.86603, -0.5, 0.90987, -0.41489)),
}
SIZES = PaddedSizes(torch.tensor([[64, 96], [64, 64]]), (64, 96))


@pytest.mark.parametrize("temperature", GOLDEN)
def test_positions_of_tokens_are_the_authors(temperature):
    x = torch.rand(2, 256, 2, 3, dtype=torch.float64)
    tokens, position, mask = as_tokens(x, SIZES, temperatures_yx=(temperature, temperature))
    assert tokens.equal(x.flatten(2).mT)
    assert position.dtype == torch.float64
    row, column = (torch.tensor(v, dtype=torch.float64) for v in GOLDEN[temperature])
    assert_close(position[0, 0, :4], row, atol=1e-5, rtol=0)
    assert_close(position[0, 0, 128:132], column, atol=1e-5, rtol=0)
    assert mask.tolist() == [[False] * 6, [False, False, True] * 2]


def test_rows_and_columns_have_temperatures_of_their_own():
    x = torch.rand(1, 16, 2, 3)
    sizes = PaddedSizes(torch.tensor([[64, 96]]), (64, 96))
    both = as_tokens(x, sizes, temperatures_yx=(20.0, 10_000.0))[1]
    rows = as_tokens(x, sizes, temperatures_yx=(20.0, 20.0))[1]
    columns = as_tokens(x, sizes)[1]
    assert both.equal(torch.cat((rows[..., :8], columns[..., 8:]), dim=-1))


def test_references_are_embedded_y_first():
    box = (0.2, 0.7, 0.4, 0.1)
    want = []
    for share in (0.7, 0.2, 0.4, 0.1):  # y, x, w, h
        for i in range(8):
            angle = share * math.tau / 20 ** (2 * (i // 2) / 8)
            want.append(math.cos(angle) if i % 2 else math.sin(angle))
    want = torch.tensor(want)
    assert_close(embed_reference(torch.tensor(box), 32, temperature=20.0), want)
    assert_close(embed_reference(torch.tensor(box[:2]), 16, temperature=20.0), want[:16])


@pytest.mark.parametrize("scale_position", [False, True])
@pytest.mark.parametrize("pre_norm", [False, True])
def test_memory_of_a_padded_image_is_that_of_the_image_alone(scale_position, pre_norm):
    encoder = SingleScaleEncoder(
        16, 2, heads=2, ffn=32, pre_norm=pre_norm, scale_position=scale_position, temperatures_yx=(20.0, 20.0)
    ).eval()
    x, size = torch.randn(1, 16, 2, 3), torch.tensor([[64, 64]])
    padded, alone = encoder(x, PaddedSizes(size, (64, 96))), encoder(x[..., :2], PaddedSizes(size, (64, 64)))
    inside = ~padded.mask[0]
    assert (padded.shape_hw, alone.shape_hw) == ((2, 3), (2, 2))
    assert inside.tolist() == [True, True, False] * 2
    assert_close(padded.x[:, inside], alone.x)
    assert_close(padded.position[:, inside], alone.position)


def test_layers_share_one_scale_of_positions_made_of_the_cells():
    encoder = SingleScaleEncoder(16, 2, heads=2, ffn=32, activation=nn.PReLU, scale_position=True)
    x = torch.randn(2, 16, 2, 3)
    want, position, mask = as_tokens(x, SIZES)
    for layer in encoder.layers:
        want = layer(want, position * encoder.position_scale(want), mask)
    assert_close(encoder(x, SIZES).x, want)
    plain = SingleScaleEncoder(16, 2, heads=2, ffn=32)
    assert sum(p.numel() for p in encoder.parameters()) - sum(p.numel() for p in plain.parameters()) == (
        2 * (16 * 16 + 16) + 2  # the perceptron, and a slope per layer
    )
