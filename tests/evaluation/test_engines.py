"""Every engine's numbers against those of pycocotools, over random sets with crowds and edges."""

from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest

from qdet.evaluation.engines import Boxes, measure

IMAGES, CATEGORIES = 5, 4
BORDERS = np.array([32.0, 96.0, 31.999999, 96.000001, 0.0, 1.0])
"""Sides whose squares are at the limits of COCO's sizes, and boxes without area."""


def random_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    corners, sides = rng.uniform(0, 150, (count, 2)), np.exp(rng.uniform(0, 5, (count, 2)))
    at_border = rng.random(count) < 0.3
    sides[at_border] = rng.choice(BORDERS, (int(at_border.sum()), 1))
    return np.concatenate((corners.round(), sides), axis=1)


def random_truth(rng: np.random.Generator) -> Boxes:
    count = int(rng.integers(0, 25))
    boxes = random_boxes(rng, count)
    area = boxes[:, 2] * boxes[:, 3] * np.where(rng.random(count) < 0.5, 1.0, rng.uniform(0.3, 1, count))
    images, categories = rng.integers(0, IMAGES, count), rng.integers(0, CATEGORIES - 1, count)
    return Boxes(images, categories, boxes, area, (rng.random(count) < 0.2).astype(np.int64))


def random_detections(rng: np.random.Generator, truth: Boxes) -> Boxes:
    """Exact and noisy copies of objects, several of some, and strays; many scores are equal."""
    near = rng.integers(0, max(len(truth.images), 1), int(rng.integers(0, 60)) if len(truth.images) else 0)
    noise = np.where(rng.random(len(near)) < 0.3, 0.0, rng.uniform(0, 12, len(near)))
    copies = truth.boxes_xywh[near] + rng.normal(0, 1, (len(near), 4)) * noise[:, None]
    strays = random_boxes(rng, int(rng.integers(0, 150)))
    boxes = np.concatenate((copies, strays))
    boxes[:, 2:] = np.maximum(boxes[:, 2:], 0)
    images = np.concatenate((truth.images[near], rng.integers(0, IMAGES, len(strays)) // 2))
    categories = np.concatenate((truth.categories[near], rng.integers(0, CATEGORIES, len(strays)) // 2))
    count = len(boxes)
    scores = np.where(rng.random(count) < 0.5, rng.integers(1, 5, count) / 5, rng.random(count))
    order = np.lexsort((-scores, images))
    area = boxes[:, 2] * boxes[:, 3]
    found = Boxes(images, categories, boxes, area, np.zeros(count, np.int64), scores)
    return Boxes(*(getattr(found, name)[order] for name in Boxes.__dataclass_fields__))


@pytest.mark.parametrize("block", range(5))
def test_500_random_sets_measure_as_with_pycocotools(block):
    engines = ["faster-coco-eval", *(["hotcoco"] if find_spec("hotcoco") else [])]
    for seed in range(100 * block, 100 * block + 100):
        rng = np.random.default_rng(seed)
        truth = random_truth(rng)
        found = random_detections(rng, truth)
        want = measure(truth, found, images=IMAGES, categories=CATEGORIES, engine="pycocotools")
        for engine in engines:
            got = measure(truth, found, images=IMAGES, categories=CATEGORIES, engine=engine)
            named = f"{engine}, seed {seed}"
            np.testing.assert_allclose(got.stats, want.stats, rtol=0, atol=1e-12, err_msg=named)
            np.testing.assert_allclose(got.precision, want.precision, rtol=0, atol=1e-12, err_msg=named)


def test_a_wrong_number_is_seen():
    """The comparison above fails where one detection moves."""
    rng = np.random.default_rng(1)
    truth = random_truth(rng)
    found = replace(truth, crowd=np.zeros_like(truth.crowd), scores=np.linspace(1, 0.5, len(truth.images)))
    moved = replace(found, boxes_xywh=found.boxes_xywh + np.eye(len(truth.images), 4) * 90)
    one, other = (measure(truth, f, images=IMAGES, categories=CATEGORIES) for f in (found, moved))
    assert one.stats[0] > other.stats[0] + 1e-3
