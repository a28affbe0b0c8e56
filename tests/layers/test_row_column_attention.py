"""Row-column attention against a literal reading: one weight per cell, a column's times a row's."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from qdet.detectors.anchor_detr.row_column_attention import (
    RowColumnAttention,
    RowColumnCrossAttention,
    RowColumnSelfAttention,
    axis_positions,
    contract,
)

SHAPES = [(3, 5), (5, 3), (4, 4), (1, 6)]
DIM, HEADS = 12, 3


def mask_of(sizes: list[tuple[int, int]], height: int, width: int) -> torch.Tensor:
    mask = torch.ones(len(sizes), height, width, dtype=torch.bool)
    for i, (h, w) in enumerate(sizes):
        mask[i, :h, :w] = False
    return mask


def padded(height: int, width: int) -> torch.Tensor:
    return mask_of([(height, width), (max(1, height - 1), width - 2)], height, width)


def shaken(layer: torch.nn.Module) -> torch.nn.Module:
    for p in layer.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return layer.double()


def slow(layer: RowColumnAttention, query_row, query_col, key_row, key_col, value, mask) -> torch.Tensor:
    """Project everything, average keys, weigh every cell, image by image, head by head, query by query."""
    weights = zip(layer.qkv_weight.chunk(5), layer.qkv_bias.chunk(5), strict=True)
    inputs = (query_row, query_col, key_row, key_col, value)
    q_row, q_col, k_row, k_col, v = (x @ w.T + b for x, (w, b) in zip(inputs, weights, strict=True))
    k_row, k_col, d = k_row.mean(1), k_col.mean(2), DIM // HEADS
    found = torch.zeros_like(query_row)
    for b in range(len(value)):
        inside_row, inside_col = ~mask[b, 0], ~mask[b, :, 0]
        for head in range(HEADS):
            part = slice(head * d, (head + 1) * d)
            for n in range(query_row.shape[1]):
                row = k_row[b, inside_row, part] @ q_row[b, n, part] / math.sqrt(d)
                col = k_col[b, inside_col, part] @ q_col[b, n, part] / math.sqrt(d)
                weight = col.softmax(0)[:, None] * row.softmax(0)[None]
                cells = v[b, inside_col][:, inside_row, part]
                found[b, n, part] = (weight[..., None] * cells).sum((0, 1))
    return found @ layer.out.weight.T + layer.out.bias


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_one_weight_per_cell(shape):
    layer, mask = shaken(RowColumnAttention(DIM, heads=HEADS)), padded(*shape)
    queries, maps = torch.randn(2, 2, 7, DIM).double(), torch.randn(3, 2, *shape, DIM).double()
    torch.testing.assert_close(layer(*queries, *maps, mask), slow(layer, *queries, *maps, mask))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_cells_attend_to_each_other_from_their_own_row_and_column(shape):
    layer, mask = shaken(RowColumnSelfAttention(DIM, heads=HEADS)), padded(*shape)
    height, width = shape
    x = torch.randn(2, height * width, DIM).double()
    row, col = torch.randn(2, width, DIM).double(), torch.randn(2, height, DIM).double()
    placed_row, placed_col = torch.empty(2, 2, height, width, DIM).double()
    for y in range(height):
        for at in range(width):
            placed_row[:, y, at] = x[:, y * width + at] + row[:, at]
            placed_col[:, y, at] = x[:, y * width + at] + col[:, y]
    queries, value = (placed_row.flatten(1, 2), placed_col.flatten(1, 2)), x.view(2, height, width, DIM)
    want = slow(layer.attention, *queries, placed_row, placed_col, value, mask)
    torch.testing.assert_close(layer(x, row, col, mask), want)


def test_queries_attend_from_places_of_their_own():
    layer, mask = shaken(RowColumnCrossAttention(DIM, heads=HEADS)), padded(3, 5)
    x, places = torch.randn(2, 7, DIM).double(), torch.randn(2, 1, 7, DIM).double()
    memory, key_row, key_col = torch.randn(3, 2, 3, 5, DIM).double()
    want = slow(layer.attention, x + places[0], x + places[1], key_row, key_col, memory, mask)
    torch.testing.assert_close(layer(x, *places, memory, key_row, key_col, mask), want)


def test_nothing_is_gathered_from_padding():
    layer, mask = RowColumnAttention(DIM, heads=HEADS), padded(4, 6)
    queries, maps = torch.randn(2, 2, 7, DIM), torch.randn(3, 2, 4, 6, DIM)
    before = layer(*queries, *maps, mask)
    maps[2] = maps[2].masked_fill(mask.unsqueeze(-1), 1e6)
    assert layer(*queries, *maps, mask).equal(before)


@pytest.mark.parametrize("shape", [(3, 9), (9, 3)], ids=str)
def test_sums_are_kept_per_place_of_the_shorter_axis(shape):
    """No tensor on the way holds a number per query and cell, nor more than N min(h, w) D."""
    (height, width), queries = shape, 50
    layer = RowColumnAttention(DIM, heads=HEADS)

    class Largest(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            tensors = [out] if isinstance(out, torch.Tensor) else out
            self.numel = max(self.numel, *(t.numel() for t in tensors))
            return out

    inputs = (*torch.randn(2, 1, queries, DIM), *torch.randn(3, 1, height, width, DIM))
    with Largest() as largest, torch.no_grad():
        layer(*inputs, mask_of([shape], *shape))
    assert largest.numel == queries * min(shape) * DIM


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_order_of_the_sums_does_not_matter(shape):
    row, col = torch.rand(2, 3, 7, shape[1]).double(), torch.rand(2, 3, 7, shape[0]).double()
    value = torch.randn(2, 3, *shape, 4).double()
    want = torch.einsum("bmnx,bmny,bmyxd->bmnd", row, col, value)
    torch.testing.assert_close(contract(row, col, value), want)
    torch.testing.assert_close(contract(col, row, value.transpose(2, 3)), want)


def test_gradients_match_finite_differences():
    layer, mask = shaken(RowColumnAttention(4, heads=2)), padded(2, 3)
    queries, maps = torch.randn(2, 2, 3, 4).double(), torch.randn(3, 2, 2, 3, 4).double()
    inputs = [t.requires_grad_() for t in (*queries, *maps)]
    assert torch.autograd.gradcheck(lambda *x: layer(*x, mask), inputs)


def test_starts_as_the_authors_does():
    layer = RowColumnAttention(256, heads=8)
    bound = math.sqrt(6 / 1536)  # Xavier's of the stacked [1280, 256]
    assert bound * 0.999 < layer.qkv_weight.abs().max() <= bound
    assert not layer.qkv_bias.any()
    assert not layer.out.bias.any()
    assert sum(p.numel() for p in layer.parameters()) == 1280 * 256 + 1280 + 256 * 256 + 256


def test_dropout_drops_only_in_training():
    layer, mask = RowColumnAttention(DIM, heads=HEADS, dropout=0.5), padded(4, 6)
    inputs = (*torch.randn(2, 2, 7, DIM), *torch.randn(3, 2, 4, 6, DIM), mask)
    assert not layer(*inputs).equal(layer(*inputs))
    layer.eval()
    assert layer(*inputs).equal(layer(*inputs))


def test_positions_are_centres_of_cells_inside_the_image():
    x, y = axis_positions(mask_of([(2, 4), (1, 2)], 2, 4))
    assert x.dtype == y.dtype == torch.float32
    torch.testing.assert_close(x, torch.tensor([[0.125, 0.375, 0.625, 0.875], [0.25, 0.75, 0.75, 0.75]]))
    torch.testing.assert_close(y, torch.tensor([[0.25, 0.75], [0.5, 0.5]]))


def test_bfloat16_is_near_float32():
    layer, mask = RowColumnAttention(64, heads=4), padded(6, 8)
    inputs = (*torch.randn(2, 2, 30, 64), *torch.randn(3, 2, 6, 8, 64), mask)
    wide = layer(*inputs)
    with torch.autocast("cpu", torch.bfloat16):
        narrow = layer(*inputs)
    assert F.mse_loss(narrow.float(), wide).sqrt() < 0.02 * wide.std()
