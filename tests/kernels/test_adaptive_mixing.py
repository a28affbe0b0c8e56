"""The kernel of adaptive mixing against torch's operations, in Triton's interpreter."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from qdet.detectors.adamixer.adaptive_mixing import AdaptiveMixing
from qdet.kernels import adaptive_mixing as module
from qdet.kernels.adaptive_mixing import adaptive_mixing, adaptive_mixing_runs, define_adaptive_mixing
from qdet.kernels.choice import kernels
from tests.support.interpreter import gradients, interpreted

pytestmark = interpreted

CASES = {  # images, queries, groups, points in, channels, points out
    "odd sizes": (2, 2, 2, 5, 6, 7),
    "one point": (1, 2, 1, 1, 3, 1),
    "full blocks": (1, 1, 1, 16, 16, 32),
}


def inputs(name: str, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor, int]:
    images, queries, groups, points, channels, out = CASES[name]
    numbers = channels * channels + out * points
    x = torch.randn(images, queries, groups, points, channels, dtype=torch.float64)
    weights = torch.randn(images, queries, groups, numbers, dtype=torch.float64)
    return x.to(dtype).requires_grad_(), weights.to(dtype).requires_grad_(), out


@pytest.mark.parametrize("name", CASES)
def test_equals_its_definition_in_float64(name):
    x, weights, out = inputs(name)
    found, wanted = adaptive_mixing(x, weights, out), define_adaptive_mixing(x, weights, out)
    assert_close(found, wanted)
    for a, b in zip(gradients(found, x, weights), gradients(wanted, x, weights), strict=True):
        assert_close(a, b, rtol=1e-8, atol=1e-10)


def test_definition_equals_torch():
    x, weights, out = inputs("odd sizes")
    channels, points = weights.split([36, 35], dim=-1)
    hidden = F.relu(F.layer_norm(x @ channels.unflatten(-1, (6, 6)), (5, 6)))
    wanted = F.relu(F.layer_norm(points.unflatten(-1, (7, 5)) @ hidden, (7, 6)))
    assert_close(define_adaptive_mixing(x, weights, out), wanted)


@pytest.mark.parametrize(
    ("dtype", "limit"), [(torch.float32, 2e-6), (torch.bfloat16, 8e-3)], ids=["fp32", "bf16"]
)
def test_rounds_no_more_than_its_dtype(dtype, limit):
    x, weights, out = inputs("full blocks", dtype)
    wide = [t.detach().double().requires_grad_() for t in (x, weights)]
    found, wanted = adaptive_mixing(x, weights, out), define_adaptive_mixing(*wide, out, rounded=dtype)
    assert found.dtype == dtype
    assert (found.double() - wanted).norm() <= limit * wanted.norm()
    for a, b in zip(gradients(found, x, weights), gradients(wanted, *wide), strict=True):
        assert a.dtype == dtype
        assert (a.double() - b).norm() <= limit * b.norm()


def test_gradients_match_finite_differences():
    x = torch.randn(1, 1, 1, 3, 2, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(1, 1, 1, 4 + 12, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(partial(adaptive_mixing, points_out=4), (x, weights), fast_mode=True)


def test_saves_only_its_inputs():
    x, weights, out = inputs("odd sizes")
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        adaptive_mixing(x, weights, out)
    assert [t.data_ptr() for t in kept] == [x.data_ptr(), weights.data_ptr()]


def test_takes_tensors_in_any_layout():
    x, weights, out = inputs("odd sizes")
    turned, of_all = x.transpose(1, 4).contiguous().transpose(1, 4), weights[:, :1].expand_as(weights)
    assert not turned.is_contiguous()
    found = adaptive_mixing(turned, of_all, out)
    wanted = adaptive_mixing(x, of_all.contiguous(), out)
    assert_close(found, wanted, rtol=0, atol=0)
    grads = [torch.autograd.grad(r.sum(), (x, weights)) for r in (found, wanted)]  # an expanded gradient
    for a, b in zip(*grads, strict=True):
        assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize("scale", [0.0, 1e-4, 1e12])
def test_extreme_scales(scale):
    """Constant samples leave the epsilon alone under the root; large ones make it vanish."""
    x, weights, out = inputs("odd sizes")
    scaled = (scale * x).detach().requires_grad_()
    found, wanted = adaptive_mixing(scaled, weights, out), define_adaptive_mixing(scaled, weights, out)
    assert_close(found, wanted)
    for a, b in zip(gradients(found, scaled, weights), gradients(wanted, scaled, weights), strict=True):
        assert a.isfinite().all()
        assert_close(a, b, rtol=1e-6, atol=1e-9)


def test_numbers_that_are_not_finite_stay_so():
    x, weights, out = inputs("odd sizes")
    lost = x.detach().clone()
    lost[0, 1, 0, 2, 3] = math.nan
    found = adaptive_mixing(lost.requires_grad_(), weights, out)
    assert found[0, 1, 0].isnan().all()
    assert found[0, 0].isfinite().all()
    of_x, of_weights = torch.autograd.grad(found.sum(), (lost, weights))
    assert of_x[0, 1, 0].isnan().all()
    assert of_weights[0, 1, 0].isnan().all()
    assert of_weights[0, 0].isfinite().all()


@pytest.mark.parametrize("shape", [(0, 3, 2), (2, 0, 2)], ids=["images", "queries"])
def test_empty_batches(shape):
    x, weights = torch.zeros(*shape, 4, 8, requires_grad=True), torch.zeros(*shape, 84, requires_grad=True)
    found = adaptive_mixing(x, weights, 5)
    assert found.shape == (*shape, 5, 8)
    assert [g.shape for g in gradients(found, x, weights)] == [x.shape, weights.shape]


def test_unsupported_shapes_run_in_torch_and_say_so_once(recwarn):
    x = torch.zeros(1, 1, 1, 4, 256)
    with kernels("triton"):
        assert not adaptive_mixing_runs(x, points_out=128, dtype=torch.bfloat16)
        assert not adaptive_mixing_runs(x, points_out=128, dtype=torch.bfloat16)
        assert not adaptive_mixing_runs(x, points_out=128, dtype=torch.float16)
    assert [str(w.message) for w in recwarn] == [
        "adaptive_mixing runs in torch, not as a kernel: 4 points of 256 channels, mixed to 128, are too many"
        " for a program",
        "adaptive_mixing runs in torch, not as a kernel: it has no kernel for torch.float16",
    ]


def test_a_kernel_that_computes_something_else_is_not_used(monkeypatch, recwarn):
    monkeypatch.setattr(
        module, "define_adaptive_mixing", lambda x, w, points_out, rounded: x.sum() * w.sum() * x
    )
    with kernels("triton"):
        for _ in range(2):
            x = torch.zeros(1, 1, 1, 5, 4)
            assert not adaptive_mixing_runs(x, points_out=5, dtype=torch.float32)
    assert len(recwarn) == 1
    assert "ArithmeticError: errors of" in str(recwarn[0].message)


@pytest.mark.parametrize("adaptive", [True, False])
@pytest.mark.parametrize("autocast", [True, False])
def test_a_layer_computes_the_same_with_it(adaptive, autocast):
    mixing = AdaptiveMixing(8, 8, groups=2, points_in=3, points_out=5, adaptive=adaptive)
    mixing = mixing if autocast else mixing.double()
    for p in mixing.weights.parameters():
        torch.nn.init.normal_(p, std=0.5)
    dtype = mixing.out.weight.dtype
    query, sampled = torch.randn(2, 1, 8, dtype=dtype), torch.randn(2, 1, 2, 3, 4, dtype=dtype)
    found = {}
    for choice in ("torch", "triton"):
        mixing.zero_grad()
        with kernels(choice), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            result = mixing(query, sampled)
        result.float().pow(2).sum().backward()
        found[choice] = result.detach(), mixing.weights.bias.grad.clone()
    limit = 2e-2 if autocast else 1e-9
    for a, b in zip(found["triton"], found["torch"], strict=True):
        assert a.dtype == b.dtype
        assert (a - b).norm() <= limit * b.norm()
