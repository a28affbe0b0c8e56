"""Boxes by stage, queries by score, and regions that are the boxes of the stage before."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qdet.visualize.looking.look import look
from qdet.visualize.looking.stages import StageBoxes
from tests.support.detector_variants import CLASSES, DEFAULT, SIZES, VARIANTS, images, shaken

ORIGINAL = torch.tensor([[256, 192], [50, 64]])


def build(name: str):
    return shaken(VARIANTS[name][0].build(CLASSES)).eval()


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.integers(1, 25), st.floats(0, 1))
def test_the_best_queries_are_the_highest_scores_in_order(scores, count, least):
    n = len(scores)
    boxes = StageBoxes(np.zeros((1, n, 4)), np.array([scores]), np.zeros((1, n), np.int64))
    best = boxes.best(count, score=least)
    assert [scores[query] for query in best] == sorted((s for s in scores if s >= least), reverse=True)[
        :count
    ]
    assert len(set(best)) == len(best)


@pytest.mark.parametrize("name", sorted(DEFAULT))
def test_the_best_query_is_the_detectors_best_detection(name):
    detector = build(name)
    with torch.no_grad():
        found = detector.detect(detector(images(), SIZES)[-1], SIZES, ORIGINAL)
    for image, seen in enumerate(look(detector, images(), SIZES, ORIGINAL, what="stages")):
        (query,) = seen.boxes.best(1, score=0.0)
        clipped = seen.boxes.boxes_xyxy[-1, query]
        if type(detector).__name__ in ("SparseRCNN", "DynamicDETR"):  # they clip, and drop what is empty then
            height, width = ORIGINAL[image].tolist()
            clipped = np.clip(clipped, 0, [width, height, width, height])
            if not ((clipped[2:] - clipped[:2]) > 0).all():
                continue
        best = int(found.scores[image].argmax())
        assert seen.boxes.scores[-1, query] == pytest.approx(float(found.scores[image, best]), rel=1e-6)
        assert seen.boxes.labels[-1, query] == int(found.labels[image, best])
        assert clipped == pytest.approx(found.boxes_xyxy[image, best].numpy(), rel=1e-4, abs=1e-3)


@pytest.mark.parametrize("name", ["sparse_rcnn_r101_100", "dynamic_detr_r50"])
def test_a_stage_reads_the_boxes_of_the_stage_before(name):
    detector = build(name)
    (seen, _) = look(detector, images(), SIZES, ORIGINAL, what="regions")
    assert len(seen.seen) == seen.boxes.stages == 3
    for before, stage in enumerate(seen.seen[1:]):
        assert stage.boxes_xyxy == pytest.approx(seen.boxes.boxes_xyxy[before])
    cxcywh = detector.decoder.first_boxes_cxcywh(1)[0].detach().numpy().astype(np.float64)
    center, half = cxcywh[:, :2], cxcywh[:, 2:] / 2
    first = np.concatenate((center - half, center + half), axis=1) * np.tile((192, 256), 2)
    assert seen.seen[0].boxes_xyxy == pytest.approx(first, rel=1e-5, abs=1e-3)
    stages = look(detector, images(), SIZES, ORIGINAL, what="stages")[0]
    assert (stages.start_xyxy == seen.seen[0].boxes_xyxy).all()


def test_levels_of_regions_are_those_of_feature_pyramid_networks():
    """Level floor(4 + log2(sqrt(w h) / canonical)), of 2 to 5 (Lin et al., 2017, equation 1)."""
    detector = build("sparse_rcnn_r101_100")
    (seen, _) = look(detector, images(), SIZES, SIZES, what="regions")
    for stage in seen.seen:
        for (left, top, right, bottom), level in zip(stage.boxes_xyxy, stage.levels, strict=True):
            size = math.sqrt(max(right - left, 0) * max(bottom - top, 0))
            literal = math.floor(4 + math.log2(size / detector.config.canonical_size + 1e-8))
            assert level == min(max(literal, 2), 5) - 2


def test_a_box_that_points_start_from_begins_the_stages_and_a_point_does_not():
    adamixer = look(build("adamixer_r101"), images(), SIZES, ORIGINAL, what="stages")[0]
    points = look(build("adamixer_r101"), images(), SIZES, ORIGINAL, what="points")[0]
    assert adamixer.start_xyxy is not None
    assert adamixer.start_xyxy.shape == points.seen[0].around_xyxy.shape
    assert look(build("detr_r101"), images(), SIZES, ORIGINAL, what="stages")[0].start_xyxy is None
