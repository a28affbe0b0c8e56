"""Focal loss and cost: known numbers, the formula read term by term, and extreme logits."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from qdet.losses.classification import focal_loss
from qdet.losses.costs import focal_cost

STAGE = torch.tensor([[0], [1]])
QUERIES = torch.tensor([[0, 3, 4], [1, 0, 4]])
LABELS = torch.tensor([[2, 0, 2], [1, 1, 0]])


def one(logits: torch.Tensor, *labels: int, **weights: float) -> torch.Tensor:
    """The loss of a single query whose classes `labels` are there."""
    first, there = torch.zeros(1, len(labels), dtype=torch.long), torch.tensor([labels], dtype=torch.long)
    return focal_loss(logits[None, None], torch.tensor([[0]]), first, there, **weights)[0]


def literal(logits: torch.Tensor, *, alpha: float, gamma: float) -> torch.Tensor:
    """The formula on a dense map of what is there."""
    target = torch.zeros_like(logits)
    target[STAGE, QUERIES, LABELS] = 1
    p_t = torch.where(target == 1, logits.sigmoid(), 1 - logits.sigmoid())
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    weight = torch.where(target == 1, alpha, 1 - alpha)
    return (weight * (1 - p_t) ** gamma * entropy).sum((1, 2))


def test_known_numbers():
    assert_close(one(torch.tensor([0.3, -2.0]), 0), torch.tensor(0.02510 + 0.00135), atol=1e-5, rtol=0)
    assert_close(focal_cost(torch.tensor([0.3])), torch.tensor([-0.186344]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("alpha", [0.25, 0.5, 1.0])
def test_equals_the_formula_with_its_gradient(alpha, gamma):
    ours = (3 * torch.randn(2, 5, 3, dtype=torch.float64)).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    slope = torch.tensor([1.0, -2.0], dtype=torch.float64)
    got = focal_loss(ours, STAGE, QUERIES, LABELS, alpha=alpha, gamma=gamma)
    want = literal(theirs, alpha=alpha, gamma=gamma)
    assert_close(got, want)
    got.backward(slope)
    want.backward(slope)
    assert_close(ours.grad, theirs.grad)


def test_the_cost_is_the_change_of_the_loss():
    logits = torch.linspace(-6, 6, 25).double()
    change = torch.stack([one(x[None], 0) - one(x[None]) for x in logits])
    assert_close(focal_cost(logits), change, atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize("logit", [-100.0, -20.0, 20.0, 100.0])
def test_extreme_logits_are_finite(logit):
    x = torch.tensor([logit, logit], requires_grad=True)
    one(x, 1).backward()
    assert x.grad.isfinite().all()
    assert focal_cost(x).isfinite().all()
    assert abs(focal_cost(x)[0].item()) < -math.log(1e-12)


def test_gradient_matches_finite_differences():
    logits = torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: focal_loss(x, STAGE, QUERIES, LABELS), (logits,))


def test_keeps_no_map_but_the_logits():
    logits, kept = torch.randn(2, 5, 3, requires_grad=True), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        focal_loss(logits, STAGE, QUERIES, LABELS)
    assert {t.data_ptr() for t in kept if t.shape == logits.shape} == {logits.data_ptr()}
