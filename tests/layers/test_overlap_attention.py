"""Attention with a bias per pair: against one query and head at a time."""

import pytest
import torch
from torch.testing import assert_close

from qdet.detectors.adamixer.overlap_attention import OverlapAttention

B, N, D, M = 2, 5, 12, 3


@pytest.fixture
def attention():
    return OverlapAttention(D, heads=M).double()


def test_matches_one_query_and_head_at_a_time(attention):
    x, overlap = torch.randn(B, N, D).double(), -16 * torch.rand(B, N, N).double()
    got = attention(x, overlap)
    weight, bias, size = attention.qkv.weight, attention.qkv.bias, D // M
    for b in range(B):
        q, k, v = (x[b] @ w.T + c for w, c in zip(weight.split(D), bias.split(D), strict=True))
        for i in range(N):
            heads = []
            for m in range(M):
                own = slice(m * size, (m + 1) * size)
                logits = k[:, own] @ q[i, own] / size**0.5 + attention.overlap_scale[m] * overlap[b, i]
                heads.append(logits.softmax(0) @ v[:, own])
            assert_close(got[b, i], x[b, i] + attention.out(torch.cat(heads)))


def test_equals_torch_without_a_bias(attention):
    theirs = torch.nn.MultiheadAttention(D, M, batch_first=True, dtype=torch.float64)
    theirs.in_proj_weight.data, theirs.in_proj_bias.data = attention.qkv.weight.data, attention.qkv.bias.data
    theirs.out_proj.load_state_dict(attention.out.state_dict())
    x = torch.randn(B, N, D).double()
    assert_close(attention(x, torch.zeros(B, N, N).double()), x + theirs(x, x, x)[0])


def test_without_overlap_it_is_plain_attention(attention):
    plain = OverlapAttention(D, heads=M, biased=False).double()
    plain.load_state_dict({k: v for k, v in attention.state_dict().items() if k != "overlap_scale"})
    x = torch.randn(B, N, D).double()
    assert_close(plain(x), attention(x, torch.zeros(B, N, N).double()))


def test_the_scale_learns(attention):
    attention(torch.randn(B, N, D).double(), -torch.rand(B, N, N).double()).sum().backward()
    assert attention.overlap_scale.grad.abs().min() > 0


def test_starts_between_blind_and_strict():
    scales = OverlapAttention(256, heads=256).overlap_scale
    assert 0 <= scales.min() < 0.5
    assert 3.5 < scales.max() <= 4


def test_heads_must_divide():
    with pytest.raises(ValueError, match="dim must split evenly into heads, got 10 and 3"):
        OverlapAttention(10, heads=3)
