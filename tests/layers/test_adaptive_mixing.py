"""Adaptive mixing: against a literal per-query reading of the paper, and shape errors caught by name."""

from typing import get_args

import pytest
import torch
from torch.testing import assert_close

from qdet.detectors.adamixer.adaptive_mixing import AdaptiveMixing, MixingOrder

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


def norm_relu(x):
    return ((x - x.mean()) / (x.var(unbiased=False) + 1e-5).sqrt()).relu()


@pytest.mark.parametrize("order", get_args(MixingOrder))
@pytest.mark.parametrize("adaptive", [True, False])
def test_every_order_matches_one_query_at_a_time(order, adaptive):
    m = AdaptiveMixing(
        D, G * C, groups=G, points_in=P, points_out=OUT, order=order, adaptive=adaptive
    ).double()
    for p in m.weights.parameters():
        torch.nn.init.normal_(p, std=0.3)
    query, sampled = torch.randn(B, N, D).double(), torch.randn(B, N, G, P, C).double()
    got = m(query, sampled)
    for b in range(B):
        for n in range(N):
            rows = []
            for g, numbers in enumerate(m.weights(query[b, n]).view(G, -1)):
                x, rest = sampled[b, n, g], numbers
                for step in order.split("-"):
                    if step == "acm":
                        matrix, rest = rest[: C * C].view(C, C), rest[C * C :]
                        x = norm_relu(x @ matrix)
                    else:
                        matrix, rest = rest[: OUT * len(x)].view(OUT, len(x)), rest[OUT * len(x) :]
                        x = norm_relu(matrix @ x)
                assert not rest.numel()
                rows.append(x.flatten())
            assert_close(got[b, n], query[b, n] + m.out(torch.cat(rows)))


@pytest.mark.parametrize(
    ("order", "numbers", "out"),
    [
        ("acm-asm", C * C + OUT * P, OUT),
        ("asm-acm", OUT * P + C * C, OUT),
        ("acm-acm", 2 * C * C, P),
        ("asm-asm", OUT * P + OUT * OUT, OUT),
    ],
)
def test_an_order_makes_the_matrices_that_it_needs(order, numbers, out):
    m = AdaptiveMixing(D, G * C, groups=G, points_in=P, points_out=OUT, order=order)
    assert m.weights.out_features == G * numbers
    assert m.out.in_features == G * out * C


def test_without_adaptability_all_queries_mix_alike_after_training_too():
    """Whatever they have learned; with it, they do so only at first."""
    for adaptive in (True, False):
        m = AdaptiveMixing(D, G * C, groups=G, points_in=P, points_out=OUT, adaptive=adaptive)
        for p in m.parameters():
            torch.nn.init.normal_(p)
        for matrices in m.mixing_weights(torch.randn(B, N, D)):
            alike = matrices.flatten(0, 1).std(dim=0).max()
            assert (alike < 1e-6) is not adaptive


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


def test_gradients_match_finite_differences(mixing):
    query = torch.randn(1, 2, D, dtype=torch.float64, requires_grad=True)
    sampled = torch.randn(1, 2, G, P, C, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(mixing, (query, sampled))


def test_constant_samples_leave_the_bias_alone(mixing):
    """All points outside the image read zero; the norm's epsilon keeps that finite."""
    query = torch.randn(B, N, D).double()
    assert_close(mixing(query, torch.zeros(B, N, G, P, C).double()), query + mixing.out.bias)
