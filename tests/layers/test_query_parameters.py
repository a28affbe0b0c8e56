"""Numbers for queries: what takes the place of a linear generator starts, learns and counts as its bias."""

import math

import torch
from torch.testing import assert_close

from qdet.detectors.adamixer.generator import StaticParameters, make_generator, start_alike

D, NUMBERS = 16, 4000


def test_every_query_gets_the_same_parameters():
    shared = make_generator(D, NUMBERS, adaptive=False)
    got = shared(torch.randn(2, 3, D))
    assert got.shape == (2, 3, NUMBERS)
    assert got.equal(shared.bias.expand(2, 3, -1))


def test_a_fresh_model_is_the_same_with_and_without_adaptability():
    adaptive, shared = (make_generator(D, NUMBERS, adaptive=a) for a in (True, False))
    start_alike(adaptive)
    start_alike(shared)
    shared.bias.data.copy_(adaptive.bias.data)
    query = torch.randn(2, 3, D)
    assert_close(adaptive(query), shared(query))


def test_starts_as_a_linear_layers_bias():
    bias = StaticParameters(D, NUMBERS).bias.detach()
    assert bias.abs().max() <= 1 / math.sqrt(D)
    assert math.isclose(bias.std(), 1 / math.sqrt(3 * D), rel_tol=0.05)


def test_gradients_of_all_queries_add_up():
    shared = StaticParameters(D, NUMBERS)
    shared(torch.randn(2, 3, D)).sum().backward()
    assert shared.bias.grad.equal(torch.full((NUMBERS,), 6.0))
