"""The kernel of focal loss against torch's operations, in Triton's interpreter."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from qdet.kernels import focal_loss as module
from qdet.kernels.choice import kernels
from qdet.kernels.focal_loss import define_focal_loss, focal_loss, focal_loss_runs
from qdet.losses import SetLossConfig, classification
from qdet.types import Predictions, Targets
from tests.support.interpreter import gradients, interpreted

pytestmark = interpreted

SETTINGS = [(0.25, 2.0), (0.3, 1.5), (1.0, 0.0)]


def inputs(*shape: int, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    logits = (4 * torch.randn(*shape, dtype=torch.float64)).to(dtype).requires_grad_()
    return logits, torch.rand(shape) < 0.3


def by_torch(logits, targets, alpha, gamma):
    """The usual form: cross-entropy, then both factors."""
    entropy = F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), reduction="none")
    p_t = torch.where(targets, logits.sigmoid(), 1 - logits.sigmoid())
    return (torch.where(targets, alpha, 1 - alpha) * (1 - p_t) ** gamma * entropy).sum(-1)


@pytest.mark.parametrize(("alpha", "gamma"), SETTINGS)
@pytest.mark.parametrize("shape", [(2, 3, 5), (7, 1), (3, 2049)], ids=["odd sizes", "one class", "blocks"])
def test_equals_torch_in_float64(alpha, gamma, shape):
    logits, targets = inputs(*shape)
    found = focal_loss(logits, targets, alpha=alpha, gamma=gamma)
    for wanted in (
        by_torch(logits, targets, alpha, gamma),
        define_focal_loss(logits, targets, alpha=alpha, gamma=gamma),
    ):
        assert_close(found, wanted)
        assert_close(gradients(found, logits), gradients(wanted, logits), rtol=1e-8, atol=1e-12)
        found = focal_loss(logits, targets, alpha=alpha, gamma=gamma)


@pytest.mark.parametrize(
    ("dtype", "limit"), [(torch.float32, 2e-6), (torch.bfloat16, 8e-3)], ids=["fp32", "bf16"]
)
def test_rounds_no_more_than_its_dtype(dtype, limit):
    logits, targets = inputs(5, 80, dtype=dtype)
    wide = logits.detach().double().requires_grad_()
    found, wanted = focal_loss(logits, targets), define_focal_loss(wide, targets)
    assert found.dtype == torch.float32
    assert (found - wanted).norm() <= 2e-6 * wanted.norm()
    (a,), (b,) = gradients(found, logits), gradients(wanted, wide)
    assert a.dtype == dtype
    assert (a.double() - b).norm() <= limit * b.norm()


def test_gradients_match_finite_differences():
    logits, targets = inputs(2, 3)
    assert torch.autograd.gradcheck(partial(focal_loss, targets=targets), (logits,))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("logit", [-300.0, -100.0, -20.0, 0.0, 20.0, 100.0, 300.0])
def test_extreme_logits_keep_their_relative_precision(logit, gamma):
    logits = torch.tensor([[logit, logit]], requires_grad=True)
    targets = torch.tensor([[True, False]])
    wide = logits.detach().double().requires_grad_()
    found, wanted = focal_loss(logits, targets, gamma=gamma), define_focal_loss(wide, targets, gamma=gamma)
    assert_close(found.double(), wanted, rtol=2e-5, atol=1e-37)
    (a,), (b,) = torch.autograd.grad(found, logits), torch.autograd.grad(wanted, wide)
    assert a.isfinite().all()
    assert_close(a.double(), b, rtol=2e-5, atol=1e-37)


def test_numbers_that_are_not_finite_stay_so():
    logits, targets = inputs(3, 4)
    lost = logits.detach().clone()
    lost[1, 2] = math.nan
    for gamma in (0.0, 2.0):
        found = focal_loss(lost.requires_grad_(), targets, gamma=gamma)
        assert found.isnan().tolist() == [False, True, False]
        (grad,) = torch.autograd.grad(found.sum(), lost)
        assert grad.isnan().sum() == 1
    never = torch.tensor([[-math.inf, 1.0]], requires_grad=True)  # a class that is ruled out costs nothing
    found = focal_loss(never, torch.zeros(1, 2, dtype=torch.bool))
    assert_close(found, define_focal_loss(never.detach()[:, 1:], torch.zeros(1, 1, dtype=torch.bool)))
    assert torch.autograd.grad(found.sum(), never)[0][0, 0] == 0


def test_saves_only_its_inputs():
    logits, targets = inputs(3, 4)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        focal_loss(logits, targets)
    assert [t.data_ptr() for t in kept] == [logits.data_ptr(), targets.data_ptr()]


def test_takes_tensors_in_any_layout():
    logits, targets = inputs(2, 3, 5)
    turned, of_all = logits.mT.contiguous().mT, targets[:, :1].expand_as(targets)
    assert not turned.is_contiguous()
    found, wanted = focal_loss(turned, of_all), focal_loss(logits, of_all.contiguous())
    assert_close(found, wanted, rtol=0, atol=0)
    grads = [torch.autograd.grad(r.sum(), logits)[0] for r in (found, wanted)]  # an expanded gradient
    assert_close(*grads, rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4)], ids=["stages", "queries"])
def test_empty_batches(shape):
    logits, targets = inputs(*shape)
    found = focal_loss(logits, targets)
    assert found.shape == shape[:2]
    assert gradients(found, logits)[0].shape == shape


def test_unsupported_shapes_run_in_torch_and_say_so_once(recwarn):
    with kernels("triton"):
        for _ in range(2):
            assert not focal_loss_runs(torch.zeros(1, 4097), alpha=0.25, gamma=2.0)
        assert not focal_loss_runs(torch.zeros(1, 4, dtype=torch.float16), alpha=0.25, gamma=2.0)
    assert [str(w.message).partition(", not as a kernel: ")[2] for w in recwarn] == [
        "4097 classes are too many for a program",
        "it has no kernel for torch.float16",
    ]


def test_a_kernel_that_computes_something_else_is_not_used(monkeypatch, recwarn):
    monkeypatch.setattr(module, "define_focal_loss", lambda x, **_: x.sum(-1))
    with kernels("triton"):
        for _ in range(2):
            assert not focal_loss_runs(torch.zeros(1, 11), alpha=0.25, gamma=2.0)
    assert len(recwarn) == 1
    assert "ArithmeticError: errors of" in str(recwarn[0].message)


def test_the_weighted_loss_of_pairs_is_the_same_with_it():
    logits, _ = inputs(2, 5, 3)
    pairs = (
        torch.tensor([[0], [1]]),
        torch.tensor([[0, 3, 4], [1, 0, 4]]),
        torch.tensor([[2, 0, 2], [1, 1, 0]]),
    )
    found = {}
    for weights in (None, torch.tensor([0.5, 1.0, 0.0, 2.0, 1.0], dtype=torch.float64)):
        for choice in ("torch", "triton"):
            with kernels(choice):
                loss = classification.focal_loss(logits, *pairs, weights=weights)
            found[choice] = loss.detach(), *torch.autograd.grad(loss @ loss.new_tensor([1.0, -2.0]), logits)
        for a, b in zip(found["triton"], found["torch"], strict=True):
            assert_close(a, b)


def test_the_loss_of_a_set_is_the_same_with_it():
    logits = torch.randn(2, 1, 4, 3, dtype=torch.float64, requires_grad=True)
    boxes = torch.tensor([[0.0, 0, 9, 9], [20, 20, 40, 40], [5, 5, 30, 30], [50, 1, 60, 9]]).double()[None]
    targets = Targets(boxes[0, [1, 3]], torch.tensor([2, 0]), (2,))
    found = {}
    for choice in ("torch", "triton"):
        with kernels(choice):
            stages = [Predictions(stage, boxes) for stage in logits]
            losses = SetLossConfig().build(3)(stages, targets, torch.tensor([[64, 64]]), normalizer=2)
        found[choice] = losses.total.detach(), *torch.autograd.grad(losses.total, logits)
    for a, b in zip(found["triton"], found["torch"], strict=True):
        assert_close(a, b)
