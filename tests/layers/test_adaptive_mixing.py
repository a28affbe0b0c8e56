"""Adaptive mixing: against a literal per-query reading of the paper, and shape errors caught by name."""

import pytest
import torch
from torch.testing import assert_close

from qdet.layers.adaptive_mixing import AdaptiveMixing

B, N, G, P, OUT, C, D = 2, 3, 2, 4, 5, 8, 16


@pytest.fixture
def mixing():
    torch.manual_seed(0)
    m = AdaptiveMixing(D, G * C, groups=G, points_in=P, points_out=OUT).double()
    torch.nn.init.normal_(m.weights.weight, std=0.1)
    return m


def test_matches_one_query_at_a_time(mixing):
    query, sampled = torch.randn(B, N, D).double(), torch.randn(B, N, G, P, C).double()
    got = mixing(query, sampled)
    for b in range(B):
        for n in range(N):
            rows = []
            for g, w in enumerate(mixing.weights(query[b, n]).view(G, -1)):
                m_c, m_s = w[: C * C].view(C, C), w[C * C :].view(OUT, P)
                x = sampled[b, n, g] @ m_c
                x = ((x - x.mean()) / (x.var(unbiased=False) + 1e-5).sqrt()).relu()
                x = m_s @ x
                x = ((x - x.mean()) / (x.var(unbiased=False) + 1e-5).sqrt()).relu()
                rows.append(x.flatten())
            assert_close(got[b, n], query[b, n] + mixing.out(torch.cat(rows)))


def test_queries_mix_alike_at_initialisation():
    m = AdaptiveMixing(D, G * C, groups=G, points_in=P, points_out=OUT)
    c, s = m.mixing_weights(torch.randn(B, N, D))
    assert_close(c[0, 0], c[1, 2])
    assert_close(s[0, 0], s[1, 2])


def test_swapped_points_and_channels_is_caught(mixing):
    with pytest.raises(Exception, match="B N G P C"):
        mixing(torch.randn(B, N, D).double(), torch.randn(B, N + 1, G, P, C).double())


def test_groups_must_divide():
    with pytest.raises(ValueError, match="feature_dim must split evenly into groups, got 10 and 4"):
        AdaptiveMixing(16, 10)


def test_gradients(mixing):
    query = torch.randn(1, 2, D, dtype=torch.float64, requires_grad=True)
    sampled = torch.randn(1, 2, G, P, C, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(mixing, (query, sampled))


def test_constant_samples_leave_the_bias_alone(mixing):
    """All points outside the image read zero; the norm's epsilon keeps that finite."""
    query = torch.randn(B, N, D).double()
    assert_close(mixing(query, torch.zeros(B, N, G, P, C).double()), query + mixing.out.bias)
