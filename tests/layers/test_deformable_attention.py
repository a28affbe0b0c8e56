"""Deformable attention: against one point at a time, and how the authors' code starts it."""

import math

import pytest
import torch
from torch.testing import assert_close

from qdet.layers.attention.deformable import DeformableAttention, sampling_locations
from qdet.layers.token_levels import TokenLevels, flatten_maps, token_levels
from qdet.types import PaddedSizes

B, N, M, K, D = 2, 3, 2, 3, 8
SHAPES = ((6, 8), (3, 4))
SIZES = PaddedSizes(torch.tensor([[48, 40], [30, 64]]), (48, 64))


def memory() -> tuple[torch.Tensor, TokenLevels]:
    maps = [torch.randn(B, D, *shape, dtype=torch.float64) for shape in SHAPES]
    return flatten_maps(maps), token_levels(maps, SIZES)


def attention(**sizes) -> DeformableAttention:
    """With weights that hide nothing."""
    sizes = {"heads": M, "levels": len(SHAPES), "points": K} | sizes
    layer = DeformableAttention(D, **sizes).double()
    for p in layer.parameters():
        torch.nn.init.normal_(p, std=0.5)
    return layer


def read(cells: torch.Tensor, x: float, y: float) -> torch.Tensor:
    """Interpolate one map [h, w, d] at shares of its width and height; cells beyond the border are zero."""
    height, width = cells.shape[:2]
    x, y = x * width - 0.5, y * height - 0.5
    total = torch.zeros(cells.shape[-1], dtype=cells.dtype)
    for i in (math.floor(y), math.floor(y) + 1):
        for j in (math.floor(x), math.floor(x) + 1):
            if 0 <= i < height and 0 <= j < width:
                total += (1 - abs(y - i)) * (1 - abs(x - j)) * cells[i, j]
    return total


@pytest.mark.parametrize("numbers", [2, 4], ids=["points", "boxes"])
def test_matches_one_point_at_a_time(numbers):
    layer, (tokens, levels) = attention(), memory()
    query = torch.randn(B, N, D, dtype=torch.float64)
    reference = torch.rand(B, N, numbers, dtype=torch.float64)
    got = layer(query, reference, tokens, levels)
    values = levels.split(layer.value(tokens) * ~levels.mask.unsqueeze(-1))
    for b, n in torch.cartesian_prod(torch.arange(B), torch.arange(N)).tolist():
        offsets = layer.sampling_offsets(query[b, n]).view(M, len(SHAPES), K, 2)
        weights = layer.attention_weights(query[b, n]).view(M, -1).softmax(-1).view(M, len(SHAPES), K)
        found = torch.zeros(M, D // M, dtype=torch.float64)
        for m, (level, (height, width)), k in (
            (m, place, k) for m in range(M) for place in enumerate(SHAPES) for k in range(K)
        ):
            inside = (~levels.split(levels.mask)[level][b]).double()
            share = torch.tensor([inside.amax(0).mean(), inside.amax(1).mean()], dtype=torch.float64)
            step = offsets[m, level, k]
            if numbers == 2:
                point = reference[b, n] * share + step / torch.tensor([width, height])
            else:
                point = (reference[b, n, :2] + step / K * reference[b, n, 2:] / 2) * share
            cells = values[level][b].unflatten(-1, (M, -1))[:, :, m]
            found[m] += weights[m, level, k] * read(cells, *point.tolist())
        assert_close(got[b, n], layer.out(found.flatten()), rtol=1e-6, atol=1e-6)


def test_starts_as_the_authors_code():
    """Heads look right, down and right, down ... and a cell further with every point, on all levels alike."""
    layer = DeformableAttention(64, heads=8, levels=4, points=4)
    start = layer.sampling_offsets.bias.detach().view(8, 4, 4, 2)
    directions = [(1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1)]
    steps = torch.arange(1.0, 5)[:, None]
    want = torch.tensor(directions)[:, None, None] * steps
    assert_close(start, want.expand(-1, 4, -1, -1), rtol=0, atol=1e-5)
    unused = (layer.sampling_offsets.weight, *layer.attention_weights.parameters())
    assert not any(p.any() for p in (*unused, layer.value.bias, layer.out.bias))
    assert layer.value.weight.std() > 0
    assert layer.out.weight.std() > 0


def test_gradients_match_finite_differences():
    """Through offsets, weights, values and the reference."""
    layer, (tokens, levels) = attention(), memory()
    query = torch.randn(B, 1, D, dtype=torch.float64, requires_grad=True)
    reference = (0.3 + 0.4 * torch.rand(B, 1, 4, dtype=torch.float64)).requires_grad_()
    inputs = (query, reference, tokens.requires_grad_())
    assert torch.autograd.gradcheck(lambda q, r, t: layer(q, r, t, levels), inputs, fast_mode=True)


def test_tokens_under_the_padding_are_not_read():
    layer, (tokens, levels) = attention(), memory()
    query, reference = torch.randn(B, N, D).double(), torch.rand(B, N, 2).double()
    dirty = tokens + 1e6 * levels.mask.unsqueeze(-1)
    assert_close(layer(query, reference, dirty, levels), layer(query, reference, tokens, levels))


def test_references_are_shares_of_the_image_itself():
    """The same point of the same image, however far it is padded."""
    offsets = torch.zeros(B, N, M, 2, K, 2)
    reference = torch.rand(B, N, 2)
    _, levels = memory()
    points = sampling_locations(reference, offsets, levels)
    pixels = points * torch.tensor([64, 48])
    want = reference * torch.tensor([[40, 48], [64, 30]])[:, None]
    # The second image's 30 rows are 4 of 6 cells (32 pixels) and 2 of 3.
    want[1, :, 1] *= 32 / 30
    assert_close(pixels[:, :, 0, 0, 0], want)


def test_bf16_samples_in_fp32():
    layer, (tokens, levels) = attention().float(), memory()
    query, reference = torch.randn(B, N, D), torch.rand(B, N, 4)
    full = layer(query, reference, tokens.float(), levels)
    with torch.autocast("cpu", torch.bfloat16):
        half = layer(query, reference, tokens.float(), levels)
    assert half.dtype == torch.bfloat16
    assert_close(half.float(), full, rtol=0.1, atol=0.1)


def test_heads_split_the_width():
    with pytest.raises(ValueError, match="dim must split evenly"):
        DeformableAttention(10, heads=4)
