"""Matching and average precision against pycocotools, also of repeated images and of parts of a dataset."""

import contextlib
import io
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qdet.evaluation import DetectionRows, evaluate, merge
from qdet.evaluation.analysis.bootstrap import draw_images, intervals, resample
from qdet.evaluation.analysis.slices import NUMBERS, SIZES, largest_overlap, slice_dataset
from qdet.evaluation.matching.average_precision import (
    RankedClass,
    average_precision,
    mean_over_classes,
    rank,
)
from qdet.evaluation.matching.columns import Found, Truth, rank_in_group
from qdet.evaluation.matching.greedy import THRESHOLDS, Matches, match
from qdet.evaluation.matching.overlaps import Overlaps, find_overlaps
from tests.support.random_detections import random_rows, random_truth


def matched(truth: dict, rows: DetectionRows) -> tuple[Truth, Found, Overlaps, Matches]:
    columns = Truth.from_coco(truth)
    found = Found.from_rows(rows, columns)
    overlaps = find_overlaps(columns, found)
    return columns, found, overlaps, match(columns, found, overlaps)


def ranked(truth: dict, rows: DetectionRows) -> tuple[RankedClass, ...]:
    columns, found, _, matches = matched(truth, rows)
    return rank(columns, found, matches)


def random_problem(seed: int, images: int = 6) -> tuple[dict, DetectionRows]:
    rng = np.random.default_rng(seed)
    truth = random_truth(rng, images=images)
    for a in truth["annotations"]:
        a["id"] += 1  # pycocotools takes 0 for no match
    rows = random_rows(rng, truth, extra=int(rng.integers(1, 80)))
    return truth, merge([rows, near_copies(rng, truth)])


def near_copies(rng: np.random.Generator, truth: dict) -> DetectionRows:
    """Duplicates and detections of wrong classes, close to the objects."""
    chosen = [a for a in truth["annotations"] if rng.random() < 0.6]
    n = len(chosen)
    labels = [a["category_id"] if rng.random() < 0.5 else int(rng.choice((3, 7, 8))) for a in chosen]
    boxes = np.array([a["bbox"] for a in chosen], np.float64).reshape(-1, 4)
    return DetectionRows(
        np.array([a["image_id"] for a in chosen], np.int64),
        np.array(labels, np.int64),
        np.maximum(boxes * (1 + rng.normal(0, 0.06, (n, 4))), 1.0),
        rng.integers(1, 8, n) / 8,
        np.zeros(0, np.int64),
    )


def distinct(seed: int, images: int = 6) -> tuple[dict, DetectionRows]:
    """A problem without tied scores, whose order is nobody's choice."""
    truth, rows = random_problem(seed, images)
    scores = rows.scores + np.random.default_rng(seed).permutation(len(rows)) * 1e-6
    return truth, DetectionRows(rows.image_ids, rows.category_ids, rows.boxes_xywh, scores, rows.seen)


def pycocotools_run(truth: dict, rows: DetectionRows, areas=None):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    rows = rows.in_order()
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        results = [
            {"image_id": int(i), "category_id": int(c), "bbox": b.tolist(), "score": float(s)}
            for i, c, b, s in zip(
                rows.image_ids, rows.category_ids, rows.boxes_xywh, rows.scores, strict=True
            )
        ]
        run = COCOeval(coco, coco.loadRes(results), "bbox")
        if areas is not None:
            run.params.areaRng, run.params.areaRngLbl = [list(areas)], ["part"]
        run.evaluate()
        run.accumulate()
    return run


@pytest.mark.parametrize("seed", range(15))
def test_every_match_is_that_of_pycocotools(seed):
    truth, rows = random_problem(seed)
    columns, found, _, matches = matched(truth, rows)
    run = pycocotools_run(truth, rows)
    position = {id_: i for i, id_ in enumerate(columns.annotation_ids)} | {0: -1}
    checked = 0
    for one in run.evalImgs:
        if one is None or one["aRng"] != [0, 1e10]:
            continue
        image = int(np.searchsorted(columns.image_ids, one["image_id"]))
        label = int(np.searchsorted(columns.class_ids, one["category_id"]))
        own = np.flatnonzero((found.images == image) & (found.labels == label))
        assert found.scores[own].tolist() == one["dtScores"]
        if not len(own):
            continue
        expected = np.vectorize(position.get)(one["dtMatches"].astype(int))
        np.testing.assert_array_equal(matches.objects[:, own], expected)
        np.testing.assert_array_equal(matches.ignored[:, own], one["dtIgnore"].astype(bool))
        checked += len(own)
    assert checked == len(found)


@pytest.mark.parametrize("seed", range(15))
def test_average_precision_is_that_of_coco(seed):
    truth, rows = random_problem(seed)
    everything = np.ones((1, len(truth["images"])), np.int64)
    precision = average_precision(ranked(truth, rows), everything)
    metrics = evaluate(truth, rows)
    three = mean_over_classes(precision)[0]
    expected = [metrics.AP, metrics.AP50, metrics.AP75]
    np.testing.assert_allclose([three.mean(), three[0], three[5]], expected, rtol=0, atol=1e-12)
    for k, expected_class in enumerate(metrics.per_class.values()):
        assert (expected_class is None) == np.isnan(precision[0, :, k]).any()
        if expected_class is not None:
            assert precision[0, :, k].mean() == pytest.approx(expected_class, abs=1e-12)


def repeated(truth: dict, rows: DetectionRows, times: dict[int, int]) -> tuple[dict, DetectionRows]:
    """Write every image as often as `times` says, under ids of its own."""
    images, annotations, parts = [], [], []
    for image, count in times.items():
        for copy in range(count):
            new = image * 100 + copy
            images.append({"id": new})
            annotations += [{**a, "image_id": new} for a in truth["annotations"] if a["image_id"] == image]
            own = rows.image_ids == image
            parts.append(
                (np.full(own.sum(), new), rows.category_ids[own], rows.boxes_xywh[own], rows.scores[own])
            )
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    seen = np.array([image["id"] for image in images], np.int64)
    return {**truth, "images": images, "annotations": annotations}, DetectionRows(*columns, seen)


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6))
def test_a_weighted_image_counts_as_often_as_it_is_repeated(seed):
    truth, rows = distinct(seed, images=5)
    ids = sorted(image["id"] for image in truth["images"])
    weights = np.random.default_rng(seed).integers(0, 4, len(ids))
    if not weights.any():
        return
    by_weight = mean_over_classes(average_precision(ranked(truth, rows), weights[None]))[0].mean()
    metrics = evaluate(*repeated(truth, rows, dict(zip(ids, weights.tolist(), strict=True))))
    assert by_weight == pytest.approx(metrics.AP, abs=1e-12, nan_ok=True)


def test_many_weightings_at_once_are_those_one_by_one(monkeypatch):
    truth, rows = random_problem(3)
    classes, weights = ranked(truth, rows), draw_images(6, 20, seed=1)
    one_by_one = np.concatenate([average_precision(classes, w[None]) for w in weights])
    np.testing.assert_array_equal(average_precision(classes, weights), one_by_one)
    monkeypatch.setattr("qdet.evaluation.matching.average_precision._AT_ONCE", 50)
    np.testing.assert_array_equal(average_precision(classes, weights), one_by_one)


@pytest.mark.parametrize("seed", range(6))
def test_slices_by_size_are_those_of_pycocotools(seed):
    truth, rows = random_problem(seed)
    columns, found, overlaps, matches = matched(truth, rows)
    slices = {s.name: s for s in slice_dataset(columns, found, overlaps, rank(columns, found, matches)).size}
    seen = 0
    for low, high in itertools.pairwise(SIZES):
        run = pycocotools_run(truth, rows, areas=(low**2, high**2))
        precision = run.eval["precision"][:, :, :, 0, -1]
        name = f"{low} to {high}" if high < SIZES[-1] else f"over {low}"
        if not (precision > -1).any():
            assert name not in slices
            continue
        seen += 1
        assert pytest.approx(precision[precision > -1].mean(), abs=1e-12) == slices[name].AP
        areas = [a["area"] for a in truth["annotations"] if not a["iscrowd"]]
        assert slices[name].objects == sum(low**2 <= area <= high**2 for area in areas)
    assert seen == len(slices) > 2


@pytest.mark.parametrize("seed", range(6))
def test_slices_by_images_are_evaluations_of_those_images(seed):
    truth, rows = random_problem(seed, images=9)
    columns, found, overlaps, matches = matched(truth, rows)
    slices = slice_dataset(columns, found, overlaps, rank(columns, found, matches))
    real = [a for a in truth["annotations"] if not a["iscrowd"]]
    number = {i["id"]: sum(a["image_id"] == i["id"] for a in real) for i in truth["images"]}
    for one in slices.number:
        low = int(one.name.split()[0])
        high = next((n for n in NUMBERS if n > low), 10**9)
        own = {i: 1 for i, n in number.items() if low <= n < high}
        assert one.images == len(own)
        assert one.objects == sum(number[i] for i in own)
        assert pytest.approx(evaluate(*repeated(truth, rows, own)).AP50, abs=1e-12) == one.AP50
    assert sum(s.images for s in slices.number) == sum(n > 0 for n in number.values())
    assert sum(s.objects for s in slices.overlap) == len(real)


def test_largest_overlap_is_of_two_objects_that_count():
    truth = {
        "images": [{"id": 1}, {"id": 2}, {"id": 3}],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 10]},
            {"id": 2, "image_id": 1, "category_id": 2, "bbox": [5, 0, 10, 10]},  # 50 of 150
            {"id": 3, "image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 10], "iscrowd": 1},
            {"id": 4, "image_id": 3, "category_id": 1, "bbox": [0, 0, 10, 10]},
        ],
    }
    np.testing.assert_allclose(largest_overlap(Truth.from_coco(truth)), [1 / 3, 0, 0])


@given(groups=st.lists(st.integers(0, 4), max_size=30))
def test_rank_in_group_counts_earlier_ones(groups):
    expected = [groups[:i].count(group) for i, group in enumerate(groups)]
    assert rank_in_group(np.array(groups, np.int64)).tolist() == expected


def test_an_object_larger_than_coco_counts_is_no_miss_and_no_error():
    truth = {
        "images": [{"id": 1}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9], "area": 1e11}],
    }
    rows = DetectionRows(
        np.ones(1, np.int64),
        np.ones(1, np.int64),
        np.array([[0, 0, 9.0, 9]]),
        np.ones(1),
        np.ones(1, np.int64),
    )
    columns, _, _, matches = matched(truth, rows)
    assert matches.ignored.all()
    assert not matches.missed(columns).any()
    assert columns.objects().tolist() == [0]
    assert np.isnan(evaluate(truth, rows).AP)


def test_thresholds_are_those_of_pycocotools():
    from pycocotools.cocoeval import Params

    assert Params("bbox").iouThrs.tolist() == THRESHOLDS.tolist()


@pytest.mark.parametrize("seed", range(4))
def test_intervals_are_quantiles_of_evaluations_of_repeated_images(seed):
    truth, rows = distinct(seed)
    ids = sorted(image["id"] for image in truth["images"])
    found = intervals(resample(ranked(truth, rows), len(ids), draws=12, seed=seed), ("3", "7", "8", "90"))
    repeats = [dict(zip(ids, w.tolist(), strict=True)) for w in draw_images(len(ids), 12, seed)]
    drawn = [evaluate(*repeated(truth, rows, times)).AP for times in repeats]
    value = evaluate(truth, rows).AP
    mirrored = sorted(2 * value - d for d in drawn if not np.isnan(d))
    assert found.overall["AP"].value == pytest.approx(value, abs=1e-12)
    assert found.overall["AP"].low == pytest.approx(np.quantile(mirrored, 0.025), abs=1e-12)
    assert found.overall["AP"].high == pytest.approx(np.quantile(mirrored, 0.975), abs=1e-12)
    assert np.isnan(found.per_class["90"].low)


def test_draws_depend_on_the_seed_alone_and_keep_the_number_of_images():
    draws = draw_images(50, 30, seed=4)
    np.testing.assert_array_equal(draws, draw_images(50, 30, seed=4))
    assert (draws != draw_images(50, 30, seed=5)).any()
    assert (draws.sum(1) == 50).all()
