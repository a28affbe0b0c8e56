"""What passes between scales: with kernels that move nothing but the middle."""

import pytest
import torch
from torch.testing import assert_close

from qdet.detectors.smca.scale_exchange import ScaleExchange

B, D = 2, 6
SHAPES = ((7, 10), (4, 5), (2, 3))
LENGTHS = [h * w for h, w in SHAPES]


@pytest.fixture
def exchange():
    """Products that change nothing, convolutions that return 0."""
    exchange = ScaleExchange(D, len(SHAPES), kernel=3).double()
    for p in exchange.parameters():
        torch.nn.init.zeros_(p)
    for conv in (exchange.enter, exchange.leave):
        torch.nn.init.dirac_(conv.weight)
    return exchange


@pytest.fixture
def tokens():
    return torch.randn(B, sum(LENGTHS), D).double(), torch.randn(B, sum(LENGTHS), D).double()


def pass_on(*convolutions: torch.nn.Conv2d) -> None:
    for conv in convolutions:
        torch.nn.init.dirac_(conv.weight, groups=D)


def maps(tokens: torch.Tensor) -> list[torch.Tensor]:
    parts = zip(tokens.split(LENGTHS, dim=1), SHAPES, strict=True)
    return [part.unflatten(1, shape) for part, shape in parts]


def test_within_scales_alone_it_returns_what_is_there(exchange, tokens):
    pass_on(*exchange.within)
    assert_close(exchange(*tokens, SHAPES), sum(tokens))


def test_down_takes_every_second_cell(exchange, tokens):
    pass_on(*exchange.within, *exchange.down)
    before, after = maps(sum(tokens)), maps(exchange(*tokens, SHAPES))
    assert_close(after[0], before[0])
    for j in (1, 2):
        assert_close(after[j], before[j] + before[j - 1][:, ::2, ::2])


def test_up_interpolates_from_corner_to_corner(exchange, tokens):
    pass_on(*exchange.within, *exchange.up)
    before, after = maps(sum(tokens)), maps(exchange(*tokens, SHAPES))
    assert_close(after[2], before[2])
    for j in (0, 1):
        risen, (h, w), coarse = after[j] - before[j], SHAPES[j], before[j + 1]
        for y in range(h):
            for x in range(w):
                v, u = y * (SHAPES[j + 1][0] - 1) / (h - 1), x * (SHAPES[j + 1][1] - 1) / (w - 1)
                top, left = min(int(v), SHAPES[j + 1][0] - 2), min(int(u), SHAPES[j + 1][1] - 2)
                dy, dx = v - top, u - left
                want = (1 - dy) * ((1 - dx) * coarse[:, top, left] + dx * coarse[:, top, left + 1])
                want = want + dy * ((1 - dx) * coarse[:, top + 1, left] + dx * coarse[:, top + 1, left + 1])
                assert_close(risen[:, y, x], want)


def test_channels_mix_in_the_products_alone(exchange, tokens):
    pass_on(*exchange.within, *exchange.up, *exchange.down)
    x, position = tokens
    other = x.clone()
    other[..., 0] += 1
    moved = (exchange(other, position, SHAPES) - exchange(x, position, SHAPES)).abs().amax((0, 1))
    assert moved[0] > 0
    assert not moved[1:].any()
