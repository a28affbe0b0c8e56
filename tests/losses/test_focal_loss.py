"""Focal loss and cost: known numbers, the formula, and extreme logits."""

import math

import pytest
import torch
from torch.testing import assert_close

from qdet.losses.focal import focal_cost, focal_loss


def test_known_numbers():
    got = focal_loss(torch.tensor([0.3, -2.0]), torch.tensor([1.0, 0.0]))
    assert_close(got, torch.tensor([0.02510, 0.00135]), atol=5e-6, rtol=0)
    assert_close(focal_cost(torch.tensor([0.3])), torch.tensor([-0.186344]), atol=1e-6, rtol=0)


def test_a_gamma_of_zero_is_weighted_cross_entropy():
    logits, target = torch.randn(50), torch.randint(0, 2, (50,)).float()
    want = torch.nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="none") / 2
    assert_close(focal_loss(logits, target, alpha=0.5, gamma=0.0), want)


def test_the_cost_is_the_change_of_the_loss():
    logits = torch.linspace(-6, 6, 25).double()
    change = focal_loss(logits, torch.ones(25).double()) - focal_loss(logits, torch.zeros(25).double())
    assert_close(focal_cost(logits), change, atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize("logit", [-100.0, -20.0, 20.0, 100.0])
def test_extreme_logits_are_finite(logit):
    x = torch.tensor([logit, logit], requires_grad=True)
    focal_loss(x, torch.tensor([0.0, 1.0])).sum().backward()
    assert x.grad.isfinite().all()
    assert focal_cost(x).isfinite().all()
    assert abs(focal_cost(x)[0].item()) < -math.log(1e-12)


def test_gradient():
    logits = torch.randn(6, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([0.0, 1, 0, 1, 1, 0], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: focal_loss(x, target), (logits,))
