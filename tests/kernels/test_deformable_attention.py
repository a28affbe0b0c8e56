"""The kernel of multi-scale deformable attention against torch's operations, in Triton's interpreter."""

import math
from functools import partial

import pytest
import torch
from torch.testing import assert_close

from qdet.kernels import deformable_attention as module
from qdet.kernels.choice import kernels
from qdet.kernels.deformable_attention import (
    define_deformable_attention,
    deformable_attention,
    deformable_attention_runs,
)
from qdet.kernels.level_table import LevelTable
from qdet.layers.attention.deformable import DeformableAttention, gather_points
from qdet.layers.padding import PaddedSizes
from qdet.layers.token_levels import TokenLevels, token_levels
from tests.support.interpreter import gradients, interpreted

pytestmark = interpreted

CASES = {  # images, queries, heads, points, channels of a head, sizes
    "three levels": (1, 5, 2, 2, 6, ((6, 9), (3, 5), (1, 2))),
    "maps of one cell": (2, 3, 2, 2, 4, ((1, 1), (1, 1))),
    "one level, two blocks": (1, 3, 1, 2, 512, ((4, 5),)),
}
DETERMINISTIC = pytest.mark.parametrize("deterministic", [False, True], ids=["atomic", "fixed point"])


def inputs(name: str, dtype: torch.dtype = torch.float64) -> tuple[list[torch.Tensor], LevelTable]:
    """Values, points of which some lie outside and one far away, and weights."""
    images, queries, heads, count, channels, sizes = CASES[name]
    value = torch.randn(images, sum(h * w for h, w in sizes), heads * channels, dtype=torch.float64)
    points = 1.4 * torch.rand(images, queries, heads, len(sizes), count, 2, dtype=torch.float64) - 0.2
    points[0, 0, 0, 0, 0] = torch.tensor([1e9, -1e9])
    weights = torch.rand(points.shape[:-1], dtype=torch.float64).flatten(-2).softmax(-1)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    tensors = value.to(dtype), points.to(wide), weights.view(points.shape[:-1]).to(wide)
    return [t.requires_grad_() for t in tensors], LevelTable(sizes, (1,) * len(sizes))


def token_levels_of(levels: LevelTable, images: int) -> TokenLevels:
    maps = [torch.zeros(images, 1, h, w) for h, w in levels.sizes_hw]
    height, width = levels.sizes_hw[0]
    sizes = torch.tensor([[height, width]] * images)
    return token_levels(maps, PaddedSizes(sizes, (height, width)))


@DETERMINISTIC
@pytest.mark.parametrize("name", CASES)
def test_equals_torch_in_float64(name, deterministic):
    tensors, levels = inputs(name)
    found = deformable_attention(*tensors, levels, deterministic=deterministic)
    wanted = gather_points(*tensors, token_levels_of(levels, len(tensors[0])))
    assert_close(found, wanted)
    for a, b in zip(gradients(found, *tensors), gradients(wanted, *tensors), strict=True):
        assert_close(a, b, rtol=1e-8, atol=1e-10)


def test_definition_equals_torch():
    tensors, levels = inputs("three levels")
    wanted = gather_points(*tensors, token_levels_of(levels, 1))
    assert_close(define_deformable_attention(*tensors, levels), wanted)


@pytest.mark.parametrize(
    ("dtype", "limit"), [(torch.float32, 2e-6), (torch.bfloat16, 8e-3)], ids=["fp32", "bf16"]
)
def test_rounds_no_more_than_its_dtype(dtype, limit):
    tensors, levels = inputs("three levels", dtype)
    wide = [t.detach().double().requires_grad_() for t in tensors]
    found = deformable_attention(*tensors, levels)
    wanted = define_deformable_attention(*wide, levels)
    assert found.dtype == dtype
    assert (found.double() - wanted).norm() <= limit * wanted.norm()
    for given, a, b in zip(tensors, gradients(found, *tensors), gradients(wanted, *wide), strict=True):
        assert a.dtype == given.dtype
        assert (a.double() - b).norm() <= limit * b.norm()


def test_gradients_match_finite_differences():
    levels = LevelTable(((3, 4), (2, 2)), (1, 1))
    value = torch.randn(1, 16, 2, dtype=torch.float64, requires_grad=True)
    points = torch.tensor([[0.43, 0.31], [0.81, 0.14], [0.22, 0.66], [0.95, 0.58]], dtype=torch.float64)
    weights = torch.tensor([0.1, 0.4, 0.2, 0.3], dtype=torch.float64).view(1, 1, 1, 2, 2)
    tensors = value, points.view(1, 1, 1, 2, 2, 2).requires_grad_(), weights.requires_grad_()
    assert torch.autograd.gradcheck(partial(deformable_attention, levels=levels), tensors, fast_mode=True)


def test_saves_only_its_inputs():
    tensors, levels = inputs("maps of one cell")
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        deformable_attention(*tensors, levels)
    assert [t.data_ptr() for t in kept] == [t.data_ptr() for t in tensors]


def test_takes_tensors_in_any_layout():
    tensors, levels = inputs("maps of one cell")
    turned = [t.transpose(1, 2).contiguous().transpose(1, 2) for t in tensors]
    assert not any(t.is_contiguous() for t in turned)
    found, wanted = deformable_attention(*turned, levels), deformable_attention(*tensors, levels)
    assert_close(found, wanted, rtol=0, atol=0)
    grads = [torch.autograd.grad(r.sum(), tensors) for r in (found, wanted)]  # an expanded gradient
    for a, b in zip(*grads, strict=True):
        assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(0, 3), (2, 0)], ids=["images", "queries"])
def test_empty_batches(shape):
    levels = LevelTable(((2, 3),), (1,))
    tensors = [torch.zeros(shape[0], 6, 8), torch.zeros(*shape, 2, 1, 4, 2), torch.zeros(*shape, 2, 1, 4)]
    tensors = [t.requires_grad_() for t in tensors]
    found = deformable_attention(*tensors, levels)
    assert found.shape == (*shape, 8)
    assert [g.shape for g in gradients(found, *tensors)] == [t.shape for t in tensors]


@DETERMINISTIC
def test_numbers_that_are_not_finite_stay_so(deterministic):
    (value, points, weights), levels = inputs("maps of one cell")
    lost = points.detach().clone()
    lost[0, 1, 0, 0, 1, 0] = math.nan
    found = deformable_attention(value, lost, weights, levels, deterministic=deterministic)
    assert found[0, 1, :4].isnan().all()
    assert found[0, 1, 4:].isfinite().all()
    assert found[0, 0].isfinite().all()
    good = deformable_attention(value, points, weights, levels, deterministic=deterministic)
    (of_value,) = torch.autograd.grad(good, value, torch.full_like(good, math.inf))
    assert not of_value.isfinite().all()


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e12, 1e30])
@pytest.mark.parametrize("weight", [1e-6, 1e6])
def test_fixed_point_follows_the_scale_of_gradient_and_weights(scale, weight):
    (value, points, weights), levels = inputs("maps of one cell", torch.float32)
    grads = []
    for deterministic in (False, True):
        found = deformable_attention(value, points, weight * weights, levels, deterministic=deterministic)
        grads.append(torch.autograd.grad(found, value, torch.full_like(found, scale))[0])
    assert_close(grads[1], grads[0], rtol=1e-5, atol=1e-35 if scale else 0)  # 2^-117 at least


def test_fixed_point_does_not_depend_on_the_order_of_programs():
    """Programs add block by block, two queries in each here: turned queries come in another order."""
    (value, points, weights), levels = inputs("one level, two blocks", torch.float32)
    points, weights = (t.detach().repeat_interleave(2, 1) for t in (points, weights))
    grad = torch.cos(torch.arange(6 * 512).float()).view(1, 6, 512)
    found = {}
    for deterministic in (True, False):
        for turned in (False, True):
            parts = [t.flip(1) if turned else t for t in (points, weights, grad)]
            result = deformable_attention(value, *parts[:2], levels, deterministic=deterministic)
            (found[deterministic, turned],) = torch.autograd.grad(result, value, parts[2])
    assert torch.equal(found[True, False], found[True, True])
    assert not torch.equal(found[False, False], found[False, True])  # fast sums round as they come


def test_fixed_point_follows_torch():
    tensors, levels = inputs("maps of one cell")
    torch.use_deterministic_algorithms(True)
    try:
        assert deformable_attention(*tensors, levels).grad_fn.fixed
    finally:
        torch.use_deterministic_algorithms(False)
    assert not deformable_attention(*tensors, levels).grad_fn.fixed


def test_unsupported_shapes_run_in_torch_and_say_so_once(recwarn):
    levels = LevelTable(((2, 2),), (1,))
    with kernels("triton"):
        for _ in range(2):
            assert not deformable_attention_runs(torch.zeros(1, 4, 1028), levels, heads=2)
        assert not deformable_attention_runs(torch.zeros(1, 4, 8, dtype=torch.float16), levels, heads=2)
        assert not deformable_attention_runs(
            torch.zeros(1, 9, 8), LevelTable(((1, 1),) * 9, (1,) * 9), heads=2
        )
    assert [str(w.message).partition(", not as a kernel: ")[2] for w in recwarn] == [
        "514 channels of a head are too many for a program",
        "it has no kernel for torch.float16",
        "9 levels of 9 cells in all are too many",
    ]


def test_a_kernel_that_computes_something_else_is_not_used(monkeypatch, recwarn):
    monkeypatch.setattr(
        module, "define_deformable_attention", lambda v, p, w, levels: v.sum() + p.sum() + w.sum()[None, None]
    )
    with kernels("triton"):
        for _ in range(2):
            levels = LevelTable(((2, 2),), (1,))
            assert not deformable_attention_runs(torch.zeros(1, 4, 14), levels, heads=2)
    assert len(recwarn) == 1
    assert "not as a kernel" in str(recwarn[0].message)


@pytest.mark.parametrize("autocast", [True, False])
def test_a_layer_computes_the_same_with_it(autocast):
    layer = DeformableAttention(8, heads=2, levels=2, points=2)
    layer = layer if autocast else layer.double()
    for p in layer.parameters():
        torch.nn.init.normal_(p, std=0.3)
    dtype = layer.out.weight.dtype
    query, memory = torch.randn(1, 3, 8, dtype=dtype), torch.randn(1, 15, 8, dtype=dtype)
    reference = torch.rand(1, 3, 4, dtype=dtype)
    levels = token_levels_of(LevelTable(((3, 4), (1, 3)), (1, 1)), 1)
    found = {}
    for choice in ("torch", "triton"):
        layer.zero_grad()
        with kernels(choice), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            result = layer(query, reference, memory, levels)
        result.float().pow(2).sum().backward()
        found[choice] = result.detach(), *(p.grad.clone() for p in layer.parameters())
    limit = 3e-2 if autocast else 1e-8
    for a, b in zip(found["triton"], found["torch"], strict=True):
        assert a.dtype == b.dtype
        assert (a - b).norm() <= limit * b.norm()
