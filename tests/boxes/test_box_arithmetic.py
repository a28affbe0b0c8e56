"""Boxes: conversions there and back, overlaps by hand, and what holds for any pair."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from qdet.boxes import (
    area,
    clip,
    cxcywh_to_xyxy,
    cxcywh_to_xyzr,
    generalized_iou,
    intersection,
    iou,
    xyxy_to_cxcywh,
    xyzr_to_cxcywh,
)

coordinates = st.floats(-1000, 1000)
sizes = st.floats(0.01, 2000)
centred = st.tuples(coordinates, coordinates, sizes, sizes).map(
    lambda b: torch.tensor(b, dtype=torch.float64)
)
boxes = centred.map(cxcywh_to_xyxy)


@given(centred)
def test_corners_round_trip(box):
    assert_close(xyxy_to_cxcywh(cxcywh_to_xyxy(box)), box, atol=1e-9, rtol=1e-9)


@given(centred)
def test_xyzr_round_trips(box):
    assert_close(xyzr_to_cxcywh(cxcywh_to_xyzr(box)), box, atol=1e-9, rtol=1e-9)


@given(centred)
def test_xyzr_is_scale_and_aspect(box):
    x, y, z, r = cxcywh_to_xyzr(box).tolist()
    w, h = box[2:].tolist()
    assert (x, y) == tuple(box[:2].tolist())
    assert math.isclose(2**z, math.sqrt(w * h), rel_tol=1e-9)
    assert math.isclose(2**r, h / w, rel_tol=1e-9)


@given(boxes, boxes)
def test_overlaps_are_symmetric_and_bounded(a, b):
    assert_close(iou(a, b), iou(b, a))
    assert_close(generalized_iou(a, b), generalized_iou(b, a))
    assert 0 <= iou(a, b) <= 1 + 1e-9
    assert -1 - 1e-9 <= generalized_iou(a, b) <= iou(a, b) + 1e-9
    assert intersection(a, b) <= torch.minimum(area(a), area(b)) + 1e-9


@given(boxes)
def test_a_box_overlaps_itself_wholly(a):
    one = torch.tensor(1.0, dtype=torch.float64)
    assert_close(iou(a, a), one)
    assert_close(generalized_iou(a, a), one)


@given(boxes, boxes, st.floats(0.1, 10), coordinates)
def test_overlaps_do_not_depend_on_scale_or_place(a, b, scale, shift):
    assert_close(
        generalized_iou(a, b), generalized_iou(a * scale + shift, b * scale + shift), atol=1e-6, rtol=1e-6
    )


def test_giou_equals_a_count_by_hand():
    a, b = torch.tensor([0.0, 0, 2, 2]), torch.tensor([1.0, 1, 3, 4])
    # they share 1 of 4 + 6 - 1 = 9; the hull is 3 x 4 = 12: 1/9 - 3/12
    assert_close(iou(a, b), torch.tensor(1 / 9))
    assert_close(generalized_iou(a, b), torch.tensor(1 / 9 - 3 / 12))
    apart = torch.tensor([3.0, 0, 4, 2])  # nothing shared, hull 8, union 6
    assert_close(generalized_iou(a, apart), torch.tensor(-2 / 8))
    assert_close(generalized_iou(a, b, margin=1.0), torch.tensor(1 / 10 - 3 / 13))


def test_floors_keep_empty_boxes_finite():
    empty = torch.tensor([5.0, 5, 5, 5])
    assert generalized_iou(empty, empty, eps=1e-7).isfinite()
    assert iou(empty, empty, eps=1e-7) == 0
    assert iou(empty, empty).isnan()
    assert area(torch.tensor([3.0, 3, 1, 1])) == 0


def test_overlaps_broadcast_to_a_table():
    a, b = torch.rand(4, 1, 4), torch.rand(1, 3, 4)
    assert generalized_iou(a, b).shape == (4, 3)


@given(boxes, st.tuples(sizes, sizes))
def test_clipped_boxes_lie_inside(box, size):
    h, w = size
    left, top, right, bottom = clip(box, torch.tensor([h, w], dtype=torch.float64)).tolist()
    assert 0 <= left <= right <= w
    assert 0 <= top <= bottom <= h


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_gradients_match_finite_differences(scale):
    a = torch.tensor([0.0, 0.1, 2, 2.3], dtype=torch.float64) * scale
    b = torch.tensor([1.0, 1.2, 3.1, 4], dtype=torch.float64) * scale
    assert torch.autograd.gradcheck(
        generalized_iou, (a.requires_grad_(), b.requires_grad_()), eps=1e-7 * scale
    )
