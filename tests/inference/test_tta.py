"""Test-time augmentation: mirrors are exact, and views that agree change nothing."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qdet.data.augment import AugmentConfig
from qdet.evaluation import DetectionRows
from qdet.inference.judging.tta import SAME_OBJECT, MirroredRunner, fuse, mirror, view_sizes
from qdet.types import BatchDetections


class BrightSpots:
    """Finds the brightest columns and rows of every image: what it finds in a mirror image is mirrored."""

    device = torch.device("cpu")

    def __call__(self, images, sizes_hw, original_hw):
        boxes, scores, labels = [], [], []
        for image, (h, w), (oh, ow) in zip(images, sizes_hw.tolist(), original_hw.tolist(), strict=True):
            inside = image[:, :h, :w].double().sum(0)
            assert image.sum() == image[:, :h, :w].sum()  # padding stays outside and black
            best = inside.flatten().topk(5)
            y, x = best.indices // w, best.indices % w
            box = torch.stack((x * ow / w, y * oh / h, (x + 3) * ow / w, (y + 2) * oh / h), 1)
            box[:, 0::2] -= ow / w  # centred on the pixel
            boxes.append(box.float())
            scores.append((best.values / (3 * 255)).float())
            labels.append(y % 2)
        return BatchDetections(torch.stack(boxes), torch.stack(scores), torch.stack(labels))


def batch(seed: int):
    """Images with no two pixels alike, padded to a common size."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randint(6, 14, (3, 2), generator=generator)
    images = torch.zeros(3, 3, 16, 16, dtype=torch.uint8)
    for i, (h, w) in enumerate(sizes.tolist()):
        values = torch.randperm(256, generator=generator)[: h * w]
        images[i, 0, :h, :w] = values.view(h, w).to(torch.uint8)
    return images, sizes, sizes * 3


@settings(max_examples=15)
@given(seed=st.integers(0, 10**6))
def test_a_mirrored_runner_finds_the_same_where_the_model_treats_mirrors_alike(seed):
    images, sizes_hw, original_hw = batch(seed)
    plain = BrightSpots()(images, sizes_hw, original_hw)
    mirrored = MirroredRunner(BrightSpots())(images, sizes_hw, original_hw)
    torch.testing.assert_close(mirrored.boxes_xyxy, plain.boxes_xyxy, atol=1e-4, rtol=0)
    torch.testing.assert_close(mirrored.scores, plain.scores, atol=0, rtol=0)
    assert (mirrored.labels == plain.labels).all()


@settings(max_examples=15)
@given(seed=st.integers(0, 10**6))
def test_views_of_such_a_model_are_fused_into_what_it_finds_at_once(seed):
    images, sizes_hw, original_hw = batch(seed)
    ids, valid = torch.tensor([4, 5, 9]), torch.tensor([True, True, True])
    views = [
        DetectionRows.from_detections(runner(images, sizes_hw, original_hw), ids, valid, (3, 7))
        for runner in (BrightSpots(), MirroredRunner(BrightSpots()))
    ]
    plain, fused = views[0].in_order(), fuse(views).in_order()
    assert fused.image_ids.tolist() == plain.image_ids.tolist()
    assert fused.category_ids.tolist() == plain.category_ids.tolist()
    np.testing.assert_allclose(fused.scores, plain.scores, rtol=1e-12)
    np.testing.assert_allclose(fused.boxes_xywh, plain.boxes_xywh, atol=1e-4)


def test_mirroring_twice_gives_the_image_back_and_leaves_it_alone():
    images, sizes_hw, _ = batch(0)
    before = images.clone()
    mirrored = mirror(images, sizes_hw)
    assert (mirrored != images).any()
    assert (mirror(mirrored, sizes_hw) == images).all()
    assert (images == before).all()
    h, w = sizes_hw[0].tolist()
    assert mirrored[0, :, :h, 0].tolist() == images[0, :, :h, w - 1].tolist()


def rows(*detections, image: int = 1, seen=(1,)) -> DetectionRows:
    """Detections (class, box, score) of one image."""
    n = len(detections)
    return DetectionRows(
        np.full(n, image, np.int64),
        np.array([d[0] for d in detections], np.int64),
        np.array([d[1] for d in detections], np.float64).reshape(-1, 4),
        np.array([d[2] for d in detections], np.float64),
        np.array(seen, np.int64),
    )


BOX = (0.0, 0.0, 10.0, 10.0)


def random_rows(seed: int, n: int, *, tied: bool = True) -> DetectionRows:
    rng = np.random.default_rng(seed)
    boxes = np.concatenate((rng.uniform(0, 30, (n, 2)), rng.uniform(5, 30, (n, 2))), 1)
    scores = rng.integers(0, 5, n) / 4 if tied else rng.uniform(0, 1, n)
    return DetectionRows(rng.integers(0, 3, n), rng.integers(0, 2, n), boxes, scores, np.arange(4))


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), n=st.integers(0, 30), views=st.integers(1, 4))
def test_views_that_agree_change_nothing(seed, n, views):
    plain = random_rows(seed, n).in_order()
    fused = fuse([plain] * views).in_order()
    assert fused.seen.tolist() == plain.seen.tolist()
    assert fused.image_ids.tolist() == plain.image_ids.tolist()
    np.testing.assert_allclose(fused.scores, plain.scores)

    def as_set(one):
        return sorted(
            (int(i), int(c), *np.round(b, 6).tolist())
            for i, c, b in zip(one.image_ids, one.category_ids, one.boxes_xywh, strict=True)
        )

    assert as_set(fused) == as_set(plain)


@settings(max_examples=15)
@given(seed=st.integers(0, 10**6))
def test_the_order_of_the_views_does_not_matter(seed):
    views = [random_rows(seed + i, 12, tied=False) for i in range(3)]
    there, back = fuse(views).in_order(), fuse(views[::-1]).in_order()
    np.testing.assert_allclose(there.scores, back.scores)
    np.testing.assert_allclose(there.boxes_xywh, back.boxes_xywh)


def test_boxes_are_weighted_by_score_and_absent_views_count_as_zero():
    moved = (2.0, 0.0, 10.0, 10.0)
    fused = fuse([rows((1, BOX, 0.9)), rows((1, moved, 0.3)), rows()])
    assert fused.boxes_xywh.tolist() == [[pytest.approx(0.5), 0, 10, 10]]
    assert fused.scores.tolist() == [pytest.approx(0.4)]


def test_other_classes_other_places_and_one_view_are_not_fused():
    far = (8.0, 0.0, 10.0, 10.0)  # IoU 0.11
    fused = fuse([rows((1, BOX, 0.9), (1, BOX, 0.8)), rows((2, BOX, 0.7), (1, far, 0.6))])
    assert len(fused) == 2  # the richest view had two: the surest remain
    assert fused.scores.tolist() == [0.45, 0.4]
    assert SAME_OBJECT > 0.5


def test_sizes_are_around_the_one_of_evaluation():
    sizes = view_sizes(AugmentConfig(sizes=(480, 800), max_size=1333))
    assert [s.short_side_of_evaluation for s in sizes] == [600, 800, 1000]
    assert [s.max_size for s in sizes] == [1000, 1333, 1666]
