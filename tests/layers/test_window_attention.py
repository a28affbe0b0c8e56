"""Shifted-window attention against a literal, slow reading of section 3.2."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qdet.backbones.swin import window_attention as layer
from qdet.backbones.swin.window_attention import WindowAttention, merge, partition


def literal(attention: WindowAttention, x: torch.Tensor) -> torch.Tensor:
    """Let every pixel of one image attend, pixel by pixel, to those of its window and region."""
    window, shift, heads = attention.window, attention.shift, attention.heads
    height, width, channels = x.shape
    tall, wide = (-(-side // window) * window for side in (height, width))
    padded = torch.zeros(tall, wide, channels, dtype=x.dtype)
    padded[:height, :width] = x
    query, key, value = attention.qkv(padded).unflatten(-1, (3, heads, -1)).unbind(2)

    def place(y: int, x: int) -> tuple:
        """The window a pixel falls in once the map is rolled, and whether it came round an edge."""
        ry, rx = (y - shift) % tall, (x - shift) % wide
        return ry // window, rx // window, ry >= tall - shift, rx >= wide - shift

    pixels = [(y, x) for y in range(tall) for x in range(wide)]
    out = torch.zeros_like(padded)
    for y, x_ in pixels:
        friends = [p for p in pixels if place(*p) == place(y, x_)]
        rows = [(y - v + window - 1) * (2 * window - 1) + x_ - u + window - 1 for v, u in friends]
        for head in range(heads):
            keys = torch.stack([key[p][head] for p in friends])
            logits = keys @ query[y, x_, head] * keys.shape[-1] ** -0.5
            logits = logits + attention.relative_position_bias_table[rows, head]
            values = torch.stack([value[p][head] for p in friends])
            span = slice(head * values.shape[1], (head + 1) * values.shape[1])
            out[y, x_, span] = logits.softmax(0) @ values
    return attention.proj(out)[:height, :width]


@pytest.mark.parametrize("shift", [0, 1, 2])
@pytest.mark.parametrize("side", [(6, 9), (5, 7), (3, 3), (2, 4)], ids=str)
def test_equals_a_literal_reading(side, shift):
    attention = WindowAttention(8, 2, window=3, shift=shift).double()
    torch.nn.init.normal_(attention.relative_position_bias_table)
    x = torch.randn(2, *side, 8, dtype=torch.float64)
    want = torch.stack([literal(attention, image) for image in x])
    torch.testing.assert_close(attention(x), want, atol=1e-10, rtol=0)


@pytest.mark.parametrize("shift", [0, 2])
def test_the_fused_call_of_a_gpu_gives_the_same(shift, monkeypatch):
    attention = WindowAttention(8, 2, window=4, shift=shift).double()
    x = torch.randn(2, 8, 12, 8, dtype=torch.float64)
    plain = attention(x)
    monkeypatch.setattr(layer, "_plain_attention", layer._fused_attention)
    torch.testing.assert_close(attention(x), plain, atol=1e-12, rtol=0)


def test_gradients_are_those_of_finite_differences():
    attention = WindowAttention(4, 2, window=2, shift=1).double()
    x = torch.randn(1, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(attention, (x,))


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3))
def test_merge_undoes_partition(window, rows, columns, batch):
    x = torch.randn(batch, rows * window, columns * window, 2)
    tokens = partition(x, window)
    assert tokens.shape == (batch * rows * columns, window**2, 2)
    assert torch.equal(merge(tokens, window, (rows * window, columns * window)), x)


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 5), st.integers(1, 3), st.integers(1, 3), st.data())
def test_a_mask_parts_tokens_that_were_not_neighbours(window, rows, columns, data):
    """Within a window, two tokens may attend exactly if their distance on the map is that in the window."""
    shift = data.draw(st.integers(1, window - 1))
    tall, wide = rows * window, columns * window
    y, x = torch.meshgrid(torch.arange(tall), torch.arange(wide), indexing="ij")
    places = torch.stack((y, x), dim=-1)[None].float()
    before = partition(places.roll((-shift, -shift), dims=(1, 2)), window)
    within = partition(places, window)
    near = ((before[:, :, None] - before[:, None]) == (within[:, :, None] - within[:, None])).all(-1)
    assert torch.equal(layer.window_mask((tall, wide), window, shift, torch.device("cpu")), ~near)


def test_impossible_settings_are_named():
    with pytest.raises(ValueError, match="10 and 4"):
        WindowAttention(10, 4, window=7)
    with pytest.raises(ValueError, match="below the window 4"):
        WindowAttention(8, 4, window=4, shift=4)
