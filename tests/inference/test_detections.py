"""Detections: fewer of them, drawn, and as other tools take them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qdet.data.shards.categories import Categories
from qdet.inference.detections import Detections
from qdet.inference.pictures import open_picture

CLASSES = Categories(names=("cat", "dog"), ids=(17, 18))


def detections(scores, *, size=(40, 60)) -> Detections:
    n = len(scores)
    corners = np.stack([np.arange(n), np.arange(n), np.arange(n) + 9, np.arange(n) + 7], axis=1)
    return Detections(
        boxes_xyxy=corners.astype(np.float32).reshape(-1, 4),
        scores=np.array(scores, np.float32),
        labels=np.arange(n, dtype=np.int64) % 2,
        classes=CLASSES,
        picture=open_picture(np.full((*size, 3), 90, np.uint8)),
    )


@given(st.lists(st.floats(0, 1, width=32), max_size=8), st.floats(0, 1))
def test_above_keeps_what_scores_as_much(scores, least):
    kept = detections(scores).above(least)
    assert kept.scores.tolist() == [s for s in scores if s >= least]
    assert len(kept.names) == len(kept.boxes_xyxy) == len(kept.labels) == len(kept)


def test_indexing_slicing_and_masks():
    found = detections([0.9, 0.8, 0.7])
    assert found[0].names == ["cat"]
    assert found[-1].scores.tolist() == pytest.approx([0.7])
    assert found[1:].names == ["dog", "cat"]
    assert found[found.labels == 1].names == ["dog"]
    assert [one.names for one in found] == [["cat"], ["dog"], ["cat"]]
    with pytest.raises(IndexError):
        found[3]


def test_coco_results_have_the_datasets_ids_and_width_and_height():
    assert detections([0.5, 0.25]).to_coco(42) == [
        {"image_id": 42, "category_id": 17, "bbox": [0.0, 0.0, 9.0, 7.0], "score": 0.5},
        {"image_id": 42, "category_id": 18, "bbox": [1.0, 1.0, 9.0, 7.0], "score": 0.25},
    ]


def test_supervision_takes_them():
    supervision = pytest.importorskip("supervision")
    found = detections([0.5, 0.25]).to_supervision()
    assert isinstance(found, supervision.Detections)
    assert found.confidence.tolist() == [0.5, 0.25]
    assert found.data["class_name"].tolist() == ["cat", "dog"]
    assert len(detections([]).to_supervision()) == 0


def test_drawing_shows_only_what_scores_enough():
    blank = np.full((40, 60, 3), 90, np.uint8)
    assert np.array_equal(np.asarray(detections([0.2]).draw()), blank)
    assert not np.array_equal(np.asarray(detections([0.9]).draw()), blank)
    assert detections([0.9]).draw(size=600).size == (600, 400)
