"""Attention with a bias per pair: against one query and head at a time."""

import pytest
import torch
from torch.testing import assert_close

from qdet.detectors.adamixer.overlap_attention import OverlapAttention
from qdet.detectors.adamixer.xyzr import log_iof
from qdet.kernels.choice import kernels
from tests.support.interpreter import interpreted

B, N, D, M = 2, 5, 12, 3


def boxes():
    """Boxes that overlap more or less, or not at all."""
    corners = 40 * torch.rand(B, N, 2).double()
    return torch.cat((corners, corners + 5 + 30 * torch.rand(B, N, 2).double()), dim=-1)


@pytest.fixture
def attention():
    return OverlapAttention(D, heads=M).double()


def test_matches_one_query_and_head_at_a_time(attention):
    x, corners = torch.randn(B, N, D).double(), boxes()
    got, overlap = attention(x, corners), log_iof(corners)
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
    torch.nn.init.zeros_(attention.overlap_scale)
    x = torch.randn(B, N, D).double()
    assert_close(attention(x, boxes()), x + theirs(x, x, x)[0])


def test_without_overlap_it_is_plain_attention(attention):
    plain = OverlapAttention(D, heads=M, biased=False).double()
    plain.load_state_dict({k: v for k, v in attention.state_dict().items() if k != "overlap_scale"})
    x, corners = torch.randn(B, N, D).double(), boxes()
    assert not torch.allclose(plain(x, corners), attention(x, corners))
    torch.nn.init.zeros_(attention.overlap_scale)
    assert_close(plain(x, corners), attention(x, corners))


def test_the_scale_learns(attention):
    attention(torch.randn(B, N, D).double(), boxes()).sum().backward()
    assert attention.overlap_scale.grad.abs().min() > 0


def test_starts_between_blind_and_strict():
    scales = OverlapAttention(256, heads=256).overlap_scale
    assert 0 <= scales.min() < 0.5
    assert 3.5 < scales.max() <= 4


def test_heads_must_divide():
    with pytest.raises(ValueError, match="dim must split evenly into heads, got 10 and 3"):
        OverlapAttention(10, heads=3)


@interpreted
@pytest.mark.parametrize("hides", [False, True])
def test_the_kernel_gives_the_same_update_and_gradients(attention, hides):
    x, corners = torch.randn(B, N, D).double().requires_grad_(), boxes()
    hidden = (torch.rand(B, N, N) < 0.3) & ~torch.eye(N, dtype=torch.bool) if hides else None
    found = {}
    for choice in ("torch", "triton"):
        with kernels(choice):
            out = attention(x, corners, hidden)
        weights = x, *attention.parameters()
        found[choice] = out.detach(), *torch.autograd.grad((out * out.detach().cos()).sum(), weights)
    for a, b in zip(found["triton"], found["torch"], strict=True):
        assert_close(a, b)
