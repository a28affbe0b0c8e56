"""A blend of scales: against one query and head at a time, and against plain attention."""

import pytest
import torch
from torch.testing import assert_close

from qdet.detectors.smca.scale_selection import ScaleSelectingAttention
from qdet.layers.attention.multi_head import CrossAttention

B, N, D, M, LENGTHS = 2, 4, 12, 3, (6, 3, 2)


@pytest.fixture
def attention():
    attention = ScaleSelectingAttention(D, heads=M).double()
    for p in attention.parameters():
        torch.nn.init.normal_(p, std=0.5)
    return attention


@pytest.fixture
def inputs():
    """Queries, their positions, memory, its keys and what is added to the logits of each scale."""
    tensors = [torch.randn(B, n, D).double() for n in (N, N, sum(LENGTHS), sum(LENGTHS))]
    masks = [torch.randn(B, M, N, n).double() for n in LENGTHS]
    masks[0][1, :, :, 4:] = -torch.inf
    return *tensors, masks


def test_matches_one_query_and_head_at_a_time(attention, inputs):
    x, position, memory, key, masks = inputs
    shares = torch.rand(B, N, 3).double()
    got = attention(x, position, memory, key, masks, shares)
    weight, bias, size = attention.qkv_weight, attention.qkv_bias, D // M
    for b in range(B):
        parts = zip((x[b] + position[b], key[b], memory[b]), weight.split(D), bias.split(D), strict=True)
        q, k, v = (t @ w.T + c for t, w, c in parts)
        for i in range(N):
            heads = []
            for m in range(M):
                own, first, found = slice(m * size, (m + 1) * size), 0, 0
                for j, length in enumerate(LENGTHS):
                    scale = slice(first, first + length)
                    logits = k[scale, own] @ q[i, own] / size**0.5 + masks[j][b, m, i]
                    found = found + shares[b, i, j] * logits.softmax(0) @ v[scale, own]
                    first += length
                heads.append(found)
            assert_close(got[b, i], attention.out(torch.cat(heads)))


def test_one_scale_alone_is_plain_attention(attention, inputs):
    x, position, memory, key, masks = inputs
    plain = CrossAttention(D, heads=M).double()
    plain.attention.load_state_dict(attention.state_dict())
    scale = slice(LENGTHS[0], LENGTHS[0] + LENGTHS[1])
    shares = torch.tensor([0.0, 1.0, 0.0]).double().expand(B, N, 3)
    assert_close(
        attention(x, position, memory, key, masks, shares),
        plain(x, position, memory[:, scale], key[:, scale], masks[1]),
    )
