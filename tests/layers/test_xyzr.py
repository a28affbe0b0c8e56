"""AdaMixer's boxes and their embedding: the numbers of the authors' code."""

import math

import pytest
import torch
from torch.testing import assert_close

from qdet.detectors.adamixer.xyzr import log_iof, place, refine_xyzr, scale_to_images
from qdet.layers.position import embed_xyzr, sine_embedding
from qdet.layers.queries import grid_boxes, whole_boxes

XYZR = torch.tensor([[[400, 300, 5, 0.5], [420, 310, 6, -0.25]]])


def test_decoding_matches_the_authors():
    want = torch.tensor(
        [[386.54565, 280.97269, 413.45435, 319.02731], [385.10376, 280.65588, 454.89624, 339.34412]]
    )
    assert_close(place(XYZR).xyxy[0], want)


def test_log_iof_knows_inside_from_outside():
    assert_close(log_iof(place(XYZR).xyxy)[0], torch.tensor([[0, 0], [-1.38629, 0]]), atol=2e-6, rtol=1e-5)


def test_log_iof_of_disjoint_boxes_is_floored():
    boxes = torch.tensor([[[0.0, 0, 1, 1], [5, 5, 6, 6], [2, 2, 2, 2]]])
    got = log_iof(boxes)[0]
    assert_close(got[0, 1], torch.tensor(math.log(1e-7)))
    assert got.isfinite().all()


def test_refinement_matches_the_authors():
    delta = torch.tensor([[[0.1, -0.2, 0.3, 0.4]]])
    assert_close(refine_xyzr(XYZR[:, :1], delta)[0, 0], torch.tensor([403.2, 293.6, 5.3, 0.9]))


def test_embedding_matches_the_authors():
    got = embed_xyzr(XYZR[:, :1], 256, scale=1e-3)[0, 0].view(4, 64)[:, :6]
    want = torch.tensor(
        [
            [0.38942, 0.92106, 0.29548, 0.95535, 0.22304, 0.97481],
            [0.29552, 0.95534, 0.22308, 0.97480, 0.16790, 0.98580],
            [-0.95892, 0.28366, -0.57113, -0.82086, 0.32394, -0.94608],
            [0.47943, 0.87758, 0.36622, 0.93053, 0.27748, 0.96073],
        ]
    )
    assert_close(got, want, atol=1e-5, rtol=0)


def test_embedding_matches_a_loop():
    got = sine_embedding(torch.tensor([[[0.3, -2.0]]], dtype=torch.float64), 8, temperature=20.0)[0, 0]
    want = []
    for c in (0.3, -2.0):
        for i in range(4):
            angle = c / 20 ** (2 * (i // 2) / 4)
            want.append(math.cos(angle) if i % 2 else math.sin(angle))
    assert_close(got, torch.tensor(want, dtype=torch.float64), atol=1e-6, rtol=0)


def test_first_boxes_are_each_image_without_padding():
    got = scale_to_images(whole_boxes(3), torch.tensor([[800, 1333], [96, 128]]))
    assert got.shape == (2, 3, 4)
    assert_close(got[0, 1], torch.tensor([666.5, 400, 10.01216, -0.73660]), atol=1e-5, rtol=1e-6)
    assert_close(place(got).xyxy[1, 0], torch.tensor([0.0, 0, 128, 96]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("queries", [1, 7, 30, 100])
def test_a_grid_covers_the_image(queries):
    boxes = grid_boxes(queries)
    assert boxes.shape == (queries, 4)
    assert (boxes[:, 2:] == 2**-1.5).all()
    assert len(boxes[:, :2].unique(dim=0)) == queries
    assert ((boxes[:, :2] > 0) & (boxes[:, :2] < 1)).all()
