"""The kernel of AdaMixer's overlap bias against torch's operations, in Triton's interpreter."""

import math

import pytest
import torch
from torch.testing import assert_close

from qdet.detectors.adamixer.xyzr import log_iof
from qdet.kernels import overlap_bias as module
from qdet.kernels.choice import kernels
from qdet.kernels.overlap_bias import define_overlap_bias, overlap_bias, overlap_bias_runs
from tests.support.interpreter import gradients, interpreted

pytestmark = interpreted

ALONE = torch.tensor([[0.0, 0, 8, 8], [100, 100, 108, 104]])
INSIDE = torch.tensor([[0.0, 0, 8, 8], [2, 2, 4, 6]])


def inputs(images: int, queries: int, heads: int, dtype: torch.dtype = torch.float64):
    """Boxes that overlap more or less, some empty, some with their corners swapped; and a scale."""
    corners = 60 * torch.rand(images, queries, 2, dtype=torch.float64)
    sides = 50 * torch.rand(images, queries, 2, dtype=torch.float64) - 3
    sides[:, ::5] = 0
    boxes = torch.cat((corners, corners + sides), dim=-1)
    return boxes.to(dtype), (4 * torch.rand(heads, dtype=torch.float64)).to(dtype).requires_grad_()


def by_torch(boxes, scale):
    """As attention computes it without the kernel."""
    return scale.view(-1, 1, 1) * log_iof(boxes).unsqueeze(1)


@pytest.mark.parametrize("shape", [(2, 7, 3), (1, 65, 2), (1, 17, 8)], ids=["odd sizes", "blocks", "rows"])
def test_equals_torch_in_float64(shape):
    boxes, scale = inputs(*shape)
    for wanted in (by_torch(boxes, scale), define_overlap_bias(scale, boxes_xyxy=boxes)):
        found = overlap_bias(boxes, scale, torch.float64)
        assert_close(found, wanted)
        assert_close(gradients(found, scale), gradients(wanted, scale), rtol=1e-8, atol=1e-12)


def test_knows_inside_from_outside():
    scale = torch.tensor([1.0, 2.0])
    inside = overlap_bias(INSIDE[None], scale, torch.float32)[0]
    assert_close(inside[0], torch.tensor([[0, math.log(8 / 64)], [0, 0]]), atol=1e-6, rtol=1e-5)
    assert_close(inside[1], 2 * inside[0])
    alone = overlap_bias(ALONE[None], scale, torch.float32)[0, 0]
    assert alone.fill_diagonal_(-16.118).allclose(torch.tensor(-16.118), atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_rounds_once_to_its_dtype(dtype):
    boxes, scale = inputs(2, 20, 4, torch.float32)
    found = overlap_bias(boxes, scale, dtype)
    wide = by_torch(boxes.double(), scale.detach().double().requires_grad_())
    assert found.dtype == dtype
    assert_close(found, wide.to(dtype), rtol=2e-6 if dtype == torch.float32 else 2**-8, atol=2e-6)
    exact = by_torch(boxes, scale).to(dtype)
    assert (found == exact).double().mean() > 0.95 or dtype == torch.float32
    grad = torch.cos(torch.arange(found.numel())).view(found.shape).to(dtype)
    (a,) = torch.autograd.grad(found, scale, grad)
    b = (grad.double() * log_iof(boxes.double()).unsqueeze(1)).sum((0, 2, 3))
    assert a.dtype == torch.float32
    assert_close(a.double(), b, rtol=1e-4, atol=1e-3)


def test_gradients_match_finite_differences():
    boxes, scale = inputs(1, 3, 2)
    assert torch.autograd.gradcheck(lambda s: overlap_bias(boxes, s, torch.float64), (scale,))


@pytest.mark.parametrize("corner", range(4))
def test_boxes_that_are_not_numbers_show(corner):
    boxes, scale = inputs(1, 5, 2, torch.float32)
    boxes[0, 3, corner] = math.nan
    found, wanted = overlap_bias(boxes, scale, torch.float32), by_torch(boxes, scale)
    assert wanted.isnan().any()
    assert torch.equal(found.isnan(), wanted.isnan())


def test_saves_only_its_inputs_and_takes_any_layout():
    boxes, scale = inputs(2, 5, 3)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        wanted = overlap_bias(boxes, scale, torch.float64)
    assert [t.data_ptr() for t in kept] == [boxes.data_ptr(), scale.data_ptr()]
    turned = boxes.mT.contiguous().mT
    assert not turned.is_contiguous()
    found = overlap_bias(turned, scale, torch.float64)
    assert torch.equal(found, wanted)
    grads = [torch.autograd.grad(r.sum(), scale)[0] for r in (found, wanted)]  # an expanded gradient
    assert torch.equal(*grads)


@pytest.mark.parametrize("shape", [(0, 3), (2, 0)], ids=["images", "queries"])
def test_empty_batches(shape):
    boxes, scale = inputs(*shape, 3)
    found = overlap_bias(boxes, scale, torch.float64)
    assert found.shape == (shape[0], 3, shape[1], shape[1])
    assert gradients(found, scale)[0].tolist() == [0, 0, 0]


def test_runs_for_boxes_without_gradient_in_dtypes_that_it_has(recwarn):
    boxes = torch.zeros(1, 2, 4)
    with kernels("triton"):
        assert overlap_bias_runs(boxes, heads=2, dtype=torch.bfloat16)
        assert not overlap_bias_runs(boxes.clone().requires_grad_(), heads=2, dtype=torch.bfloat16)
        assert not recwarn
        for _ in range(2):
            assert not overlap_bias_runs(boxes, heads=2, dtype=torch.float16)
    assert not overlap_bias_runs(boxes, heads=2, dtype=torch.float32)
    assert [str(w.message).partition(", not as a kernel: ")[2] for w in recwarn] == [
        "it has no kernel for boxes in torch.float32 and a bias in torch.float16"
    ]


def test_a_kernel_that_computes_something_else_is_not_used(monkeypatch, recwarn):
    monkeypatch.setattr(
        module, "define_overlap_bias", lambda s, boxes_xyxy: s.view(-1, 1, 1).expand(1, -1, 5, 5)
    )
    with kernels("triton"):
        for _ in range(2):
            assert not overlap_bias_runs(torch.zeros(1, 2, 4), heads=11, dtype=torch.float32)
    assert len(recwarn) == 1
    assert "ArithmeticError: errors of" in str(recwarn[0].message)
