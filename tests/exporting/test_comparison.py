"""What counts as a difference between an exported file and PyTorch."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qdet.errors import ExportError
from qdet.exporting.parity import TOLERANCE, Rows, check, compare_image
from tests.support.detector_variants import CLASSES

SEEDS = st.integers(0, 10_000)
SIDE = 640.0


def detections(seed: int, count: int = 20) -> Rows:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(count, 1, generator=generator, dtype=torch.float64).sort(0, descending=True).values
    boxes = SIDE * torch.rand(count, 4, generator=generator, dtype=torch.float64)
    return Rows(scores, boxes, torch.randint(0, CLASSES, (count,), generator=generator).double())


def pick(rows: Rows, order: torch.Tensor) -> Rows:
    return Rows(rows.scores[order], rows.boxes[order], rows.labels[order])


@given(SEEDS)
def test_order_does_not_count(seed):
    rows = detections(seed)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(seed + 1))
    found = compare_image(rows, pick(rows, order), SIDE)
    assert (found.scores, found.boxes) == (0, 0)


@given(SEEDS, st.integers(0, 18), st.sampled_from(["score", "box", "label"]))
def test_one_changed_detection_is_noticed(seed, which, what):
    a = detections(seed)
    scores, boxes, labels = a.scores.clone(), a.boxes.clone(), a.labels.clone()
    if what == "score":
        scores[which] += 0.01
    elif what == "box":
        boxes[which, 2] += 5
    else:
        labels[which] += CLASSES
    b = replace(a, scores=scores, boxes=boxes, labels=labels)
    if a.scores[which] > a.scores.min() + TOLERANCE:
        assert not compare_image(a, b, SIDE).within
        assert not compare_image(b, a, SIDE).within


@given(SEEDS, st.floats(0, 0.9))
def test_differences_are_relative_to_the_image(seed, share):
    a = detections(seed)
    by = share * TOLERANCE * SIDE
    found = compare_image(a, replace(a, boxes=a.boxes + by), SIDE)
    assert found.within
    assert found.boxes <= share * TOLERANCE + 1e-12
    assert not compare_image(a, replace(a, boxes=a.boxes + 30 * TOLERANCE * SIDE), SIDE).within


def test_which_of_equally_good_detections_came_last_does_not_count():
    a = detections(3)
    boxes = a.boxes.clone()
    boxes[-1] = 0
    assert compare_image(a, replace(a, boxes=boxes), SIDE).within


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_what_is_not_finite_differs(broken):
    a = detections(4)
    boxes, scores = a.boxes.clone(), a.scores.clone()
    boxes[3] = broken
    assert not compare_image(a, replace(a, boxes=boxes), SIDE).within
    scores[3] = broken
    assert not compare_image(a, replace(a, scores=scores), SIDE).within


def test_fewer_detections_differ():
    a = detections(5)
    assert not compare_image(a, pick(a, torch.arange(19)), SIDE).within


class Fragile(torch.nn.Module):
    """Finds other boxes in the first images of a batch once the smaller of two weights is the larger."""

    def __init__(self, shining: int):
        super().__init__()
        self.pair = torch.nn.Parameter(torch.tensor([1.0, 1.0 - 1e-7]))
        self.shining = shining

    def forward(self, images, sizes_hw, original_hw):
        boxes = torch.arange(1.0, 5.0).expand(len(images), 5, 4) * original_hw.repeat(1, 2).unsqueeze(1)
        swapped = (self.pair[0] < self.pair[1]) & (torch.arange(len(images)) < self.shining)
        scores = torch.linspace(0.1, 0.9, 5).expand(len(images), 5)
        return boxes * (1 + swapped.view(-1, 1, 1)), scores, torch.zeros(len(images), 5)


def session_of(module, *, swap: bool = False, add: float = 0.0):
    """What an exported file computes whose rounding, or whose graph, is another."""
    other = Fragile(module.shining)
    other.pair.data = module.pair.data.flip(0) if swap else module.pair.data

    def run(*inputs):
        boxes, scores, labels = other(*inputs)
        return boxes, scores + add, labels

    return run


def test_an_export_that_differs_is_an_error_that_names_file_and_batch():
    graph = Fragile(shining=0)
    assert check(graph, session_of(graph), "batch", "m.onnx").within
    with pytest.raises(ExportError, match=r"^m.onnx differs from PyTorch at batch 1, \(128, 160\): scores"):
        check(graph, session_of(graph, add=0.01), "batch", "m.onnx")


def test_images_on_which_rounding_decides_are_left_out():
    graph = Fragile(shining=1)  # the first image of each batch: 6 of 24
    found = check(graph, session_of(graph, swap=True), "batch", "m.onnx")
    assert found.within
    assert found.images == 2 * (1 + 3 + 8) - 6
    with pytest.raises(ExportError, match=r"differs from PyTorch at batch 3, \(128, 160\): scores"):
        check(graph, session_of(graph, swap=True, add=0.01), "batch", "m.onnx")


def test_a_model_that_rounding_decides_on_most_images_cannot_be_compared():
    graph = Fragile(shining=8)
    with pytest.raises(ExportError, match=r"cannot be compared with PyTorch: on 24 of 24 images"):
        check(graph, session_of(graph, swap=True), "batch", "m.onnx")


def test_numbers_that_are_none_are_not_left_out():
    graph = Fragile(shining=8)
    graph.pair.data[:] = float("nan")
    with pytest.raises(ExportError, match=r"differs from PyTorch at batch 1, .*: scores by nan"):
        check(graph, session_of(graph, swap=True, add=float("nan")), "batch", "m.onnx")
