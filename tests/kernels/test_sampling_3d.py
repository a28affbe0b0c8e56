"""The kernel of 3D sampling against torch's operations and its own definition, in Triton's interpreter."""

import math
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from qdet.detectors import AdaMixerConfig
from qdet.detectors.adamixer import sampling
from qdet.detectors.adamixer.sampling_3d import sample_levels
from qdet.kernels import sampling_3d as module
from qdet.kernels.choice import kernels
from qdet.kernels.level_table import LevelTable
from qdet.kernels.sampling_3d import (
    SampledLevels,
    define_sampling_3d,
    sampling_3d,
    sampling_3d_runs,
)
from tests.support.interpreter import gradients, interpreted

pytestmark = interpreted

CASES = {  # images, queries, groups, points, channels, sizes
    "four levels": (2, 2, 2, 5, 6, ((6, 9), (3, 5), (2, 3), (1, 2))),
    "maps of one cell": (1, 3, 2, 4, 4, ((1, 1), (1, 1), (1, 1))),
    "one level": (1, 2, 1, 3, 16, ((4, 5),)),
}
FEW = {"two levels": (1, 2, 2, 3, 4, ((4, 5), (2, 3)))}
"""For tests of many passes: the interpreter takes half a second for one over four levels."""
STRIDES = (4, 8, 16, 32)


def inputs(name: str) -> tuple[torch.Tensor, list[torch.Tensor], tuple[int, ...]]:
    """Points, of which some lie outside and one far away, and maps."""
    images, queries, groups, count, channels, sizes = (CASES | FEW)[name]
    maps = [torch.randn(images, groups * channels, h, w, dtype=torch.float64) for h, w in sizes]
    extent = torch.tensor([sizes[0][1] * 4.8, sizes[0][0] * 4.8, 8.0], dtype=torch.float64)
    points = torch.rand(images, queries, groups, count, 3, dtype=torch.float64) * extent - extent / 10
    points[0, 0, 0, 0] = torch.tensor([1e9, -1e9, 40.0])
    points[0, 1, 0, 0, 2] = -30.0
    return points.requires_grad_(), [m.requires_grad_() for m in maps], STRIDES[: len(sizes)]


@pytest.mark.parametrize("deterministic", [False, True], ids=["atomic", "fixed point"])
@pytest.mark.parametrize("name", CASES)
def test_equals_torch_in_float64(name, deterministic):
    points, maps, strides = inputs(name)
    laid = SampledLevels.of(maps, strides, torch.float64)
    found = sampling_3d(points, laid, deterministic=deterministic)
    wanted = sample_levels(points, maps, strides)
    assert_close(found, wanted)
    for a, b in zip(gradients(found, points, *maps), gradients(wanted, points, *maps), strict=True):
        assert_close(a, b, rtol=1e-8, atol=1e-10)


def test_definition_equals_torch():
    points, maps, strides = inputs("four levels")
    laid = SampledLevels.of(maps, strides, torch.float64)
    assert_close(define_sampling_3d(points, laid.cells, laid.levels), sample_levels(points, maps, strides))


@pytest.mark.parametrize(
    ("dtype", "limit"), [(torch.float32, 2e-6), (torch.bfloat16, 8e-3)], ids=["fp32", "bf16"]
)
def test_rounds_no_more_than_its_dtype(dtype, limit):
    points, maps, strides = inputs("four levels")
    rounded = [m.detach().to(dtype).double().requires_grad_() for m in maps]
    wanted = sample_levels(points, rounded, strides)
    narrow, near = [m.detach().float().requires_grad_() for m in rounded], points.detach().float()
    found = sampling_3d(near.requires_grad_(), SampledLevels.of(narrow, strides, dtype))
    assert found.dtype == dtype
    assert (found.double() - wanted).norm() <= limit * wanted.norm()
    for a, b in zip(gradients(found, near, *narrow), gradients(wanted, points, *rounded), strict=True):
        assert a.dtype == torch.float32
        assert (a.double() - b).norm() <= limit * b.norm()


@pytest.mark.parametrize("deterministic", [False, True], ids=["atomic", "fixed point"])
def test_stages_add_their_gradients_of_the_maps(deterministic):
    points, maps, strides = inputs("two levels")
    stages = [points.detach() * scale for scale in (1.0, 0.7, 0.4)]
    laid = SampledLevels.of(maps, strides, torch.float64)
    found = [sampling_3d(at, laid, deterministic=deterministic).square() for at in stages]
    wanted = [sample_levels(at, maps, strides).square() for at in stages]
    expected = torch.autograd.grad(sum(w.sum() for w in wanted), maps, retain_graph=True)
    total = sum(f.sum() for f in found)
    for _ in range(2):  # a graph that is kept gives the same again
        for a, b in zip(torch.autograd.grad(total, maps, retain_graph=True), expected, strict=True):
            assert_close(a, b, rtol=1e-8, atol=1e-10)
    (first,) = torch.autograd.grad(found[0].sum(), maps[:1])
    (alone,) = torch.autograd.grad(wanted[0].sum(), maps[:1])
    assert_close(first, alone, rtol=1e-8, atol=1e-10)


def test_a_pass_that_stops_at_the_points_leaves_the_next_one_nothing():
    points, maps, strides = inputs("two levels")
    found = sampling_3d(points, SampledLevels.of(maps, strides, torch.float64))
    (of_maps,) = torch.autograd.grad(found.sum(), maps[:1], retain_graph=True)
    torch.autograd.grad(found.sum(), points, retain_graph=True)
    (again,) = torch.autograd.grad(found.sum(), maps[:1])
    assert_close(again, of_maps)


def test_gradients_match_finite_differences():
    levels = LevelTable(((3, 4), (2, 2)), (4, 8))
    tokens = torch.randn(1, 16, 2, dtype=torch.float64, requires_grad=True)
    points = torch.tensor([[7.3, 6.7, 2.6], [15.1, 2.2, 3.3]], dtype=torch.float64).view(1, 1, 1, 2, 3)

    def sample(at, cells):
        return sampling_3d(at, SampledLevels.read(cells, levels, cells.dtype))

    assert torch.autograd.gradcheck(sample, (points.requires_grad_(), tokens), fast_mode=True)


def test_takes_tensors_in_any_layout():
    points, maps, strides = inputs("four levels")
    wanted = sampling_3d(points, SampledLevels.of(maps, strides, torch.float64))
    last = [m.to(memory_format=torch.channels_last) for m in maps]
    turned = points.transpose(1, 3).contiguous().transpose(1, 3)
    assert not turned.is_contiguous()
    found = sampling_3d(turned, SampledLevels.of(last, strides, torch.float64))
    assert_close(found, wanted, rtol=0, atol=0)
    grads = (
        torch.autograd.grad(found.sum(), maps),
        torch.autograd.grad(wanted.sum(), maps),
    )  # an expanded grad
    for a, b in zip(*grads, strict=True):
        assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize(
    "shape", [(0, 3, 2, 4), (2, 0, 2, 4), (1, 2, 2, 0)], ids=["images", "queries", "points"]
)
def test_empty_batches(shape):
    points = torch.zeros(*shape, 3, requires_grad=True)
    maps = [torch.zeros(shape[0], 8, 2, 3, requires_grad=True)]
    found = sampling_3d(points, SampledLevels.of(maps, (4,), torch.float32))
    assert found.shape == (*shape, 4)
    assert [g.shape for g in gradients(found, points, *maps)] == [points.shape, maps[0].shape]


@pytest.mark.parametrize("deterministic", [False, True], ids=["atomic", "fixed point"])
def test_numbers_that_are_not_finite_stay_so(deterministic):
    points, maps, strides = inputs("one level")
    lost = points.detach().clone()
    lost[0, 0, 0, 1, 0] = math.nan
    found = sampling_3d(lost, SampledLevels.of(maps, strides, torch.float64), deterministic=deterministic)
    assert found[0, 0, 0, 1].isnan().all()
    assert found[0, 0, 0, 0].isfinite().all()
    good = sampling_3d(points, SampledLevels.of(maps, strides, torch.float64), deterministic=deterministic)
    (of_map,) = torch.autograd.grad(good, maps, torch.full_like(good, math.inf))
    assert not of_map.isfinite().all()


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-12, 1e12, 1e30])
def test_fixed_point_follows_the_scale_of_the_gradient(scale):
    points, maps, strides = inputs("one level")
    at, narrow = points.detach().float(), [m.detach().float().requires_grad_() for m in maps]
    laid = SampledLevels.of(narrow, strides, torch.float32)
    grads = []
    for deterministic in (False, True):
        found = sampling_3d(at, laid, deterministic=deterministic)
        grads.append(torch.autograd.grad(found, narrow, torch.full_like(found, scale))[0])
    assert_close(grads[1], grads[0], rtol=1e-5, atol=1e-35 if scale else 0)  # 2^-117 at least


def test_fixed_point_follows_torch():
    points, maps, strides = inputs("one level")
    laid = SampledLevels.of(maps, strides, torch.float64)
    torch.use_deterministic_algorithms(True)
    try:
        assert sampling_3d(points, laid).grad_fn.fixed
    finally:
        torch.use_deterministic_algorithms(False)
    assert not sampling_3d(points, laid).grad_fn.fixed


def test_fixed_point_does_not_depend_on_the_order_of_programs():
    """Programs add query by query here, so that turned queries are programs in another order."""
    points, maps, strides = inputs("one level")
    at, cells = points.detach().float().repeat(1, 3, 1, 1, 1), [m.detach().float() for m in maps]
    cells, found = [m.requires_grad_() for m in cells], {}
    for deterministic in (True, False):
        for turned in (False, True):
            grad = torch.cos(torch.arange(at[..., 0].numel() * 16).float()).view(*at.shape[:-1], 16)
            here, grad = (at.flip(1), grad.flip(1)) if turned else (at, grad)
            result = sampling_3d(
                here, SampledLevels.of(cells, strides, torch.float32), deterministic=deterministic
            )
            found[deterministic, turned] = torch.autograd.grad(result, cells, grad)
    assert all(torch.equal(a, b) for a, b in zip(found[True, False], found[True, True], strict=True))
    pairs = zip(found[False, False], found[False, True], strict=True)
    assert not all(torch.equal(a, b) for a, b in pairs)  # fast sums round in the order in which they come


def test_unsupported_shapes_run_in_torch_and_say_so_once(recwarn):
    maps = [torch.zeros(1, 2048, 2, 2)]
    with kernels("triton"):
        assert not sampling_3d_runs(maps, groups=4, points=31)
        assert not sampling_3d_runs(maps, groups=4, points=31)
        assert isinstance(sampling.lay_out("3d", maps, (4,), groups=4, points=31), sampling.FlatLevels)
    assert [str(w.message) for w in recwarn] == [
        "sampling_3d runs in torch, not as a kernel: 31 points of 512 channels are too many for a program"
    ]


def test_a_kernel_that_computes_something_else_is_not_used(monkeypatch, recwarn):
    monkeypatch.setattr(
        module, "define_sampling_3d", lambda at, cells, levels: at.sum() * cells[:, :1, None, None]
    )
    with kernels("triton"):
        assert not sampling_3d_runs([torch.zeros(1, 4, 2, 2)], groups=1, points=7)
        assert not sampling_3d_runs([torch.zeros(1, 4, 2, 2)], groups=1, points=7)
    assert len(recwarn) == 1
    assert "ArithmeticError: errors of" in str(recwarn[0].message)


def test_a_detector_computes_the_same_with_it():
    config = replace(AdaMixerConfig().demo(), queries=2, stages=1, points_in=4)
    detector = config.build(3).double().eval()
    images, sizes = torch.randint(0, 256, (1, 3, 32, 48), dtype=torch.uint8), torch.tensor([[32, 40]])
    for p in detector.decoder.parameters():
        torch.nn.init.normal_(p, std=0.05)
    grads = {}
    for choice in ("torch", "triton"):
        detector.zero_grad()
        with kernels(choice):
            *_, last = detector(images.double() / 255, sizes)
        (last.logits.sum() + last.boxes_xyxy.sum()).backward()
        grads[choice] = last.logits.detach(), detector.neck.lateral[0].weight.grad.clone()
    for a, b in zip(grads["triton"], grads["torch"], strict=True):
        assert_close(a, b, rtol=1e-8, atol=1e-10)
