"""Boxes moved by deltas: a worked example, what undoes them, and how far they can grow."""

import math

import torch
from torch.testing import assert_close

from qdet.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh
from qdet.layers.regions.box_deltas import apply_deltas


def moved(box_cxcywh, delta) -> torch.Tensor:
    boxes = cxcywh_to_xyxy(torch.tensor([[box_cxcywh]], dtype=torch.float64))
    return xyxy_to_cxcywh(apply_deltas(boxes, torch.tensor([[delta]], dtype=torch.float64)))[0, 0]


def test_deltas_equal_a_worked_example():
    want = torch.tensor((220.0, 95.0, 110.517, 37.041), dtype=torch.float64)
    assert_close(moved((200.0, 100.0, 100.0, 50.0), (0.4, -0.2, 0.1, -0.3)), want, rtol=0, atol=1e-3)


def test_no_delta_moves_nothing():
    box = (30.0, 40.0, 7.0, 9.0)
    assert_close(moved(box, (0.0, 0.0, 0.0, 0.0)), torch.tensor(box, dtype=torch.float64))


def test_one_step_grows_a_box_by_6250_at_most():
    width, height = moved((0.0, 0.0, 2.0, 2.0), (0.0, 0.0, 100.0, math.log(3)))[2:].tolist()
    assert math.isclose(width, 2 * 6250)
    assert math.isclose(height, 6)


def test_stays_in_fp32_under_autocast():
    boxes = torch.tensor([[[1001.3, 700.7, 1010.1, 733.3]]])
    with torch.autocast("cpu", torch.bfloat16):
        found = apply_deltas(boxes, torch.zeros(1, 1, 4).bfloat16())
    assert found.dtype == torch.float32
    assert_close(found, boxes)
