"""COCO AP against pycocotools' own loading and statistics, and the traps around it."""

import contextlib
import io
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from qdet.errors import DataError, EvaluationError
from qdet.evaluation import CocoMetrics, DetectionRows, evaluate, merge
from qdet.evaluation.coco import METRICS
from qdet.types import BatchDetections
from tests.support.random_detections import random_rows, random_truth


def by_pycocotools(truth: dict, rows: DetectionRows) -> np.ndarray:
    """The twelve statistics as pycocotools computes them from a result file."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    rows = rows.in_order()
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = json.loads(json.dumps(truth))
        for number, annotation in enumerate(coco.dataset["annotations"], start=1):
            annotation["id"] = number
        coco.createIndex()
        results = [
            {"image_id": int(i), "category_id": int(c), "bbox": b.tolist(), "score": float(s)}
            for i, c, b, s in zip(
                rows.image_ids, rows.category_ids, rows.boxes_xywh, rows.scores, strict=True
            )
        ]
        evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


def numbers(metrics: CocoMetrics) -> list[float]:
    return [getattr(metrics, name) for name in METRICS]


def same(a: CocoMetrics, b: CocoMetrics) -> bool:
    return (
        np.array_equal(numbers(a), numbers(b), equal_nan=True)
        and a.per_class == b.per_class
        and a.per_class_AP50 == b.per_class_AP50
    )


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("strict", [False, True])
def test_equals_pycocotools(seed, strict):
    rng = np.random.default_rng(seed)
    truth = random_truth(rng)
    rows = random_rows(rng, truth)
    expected = by_pycocotools(truth, rows)
    measured = evaluate(truth, rows, strict=strict)
    np.testing.assert_allclose(numbers(measured), np.where(expected < 0, np.nan, expected), atol=1e-12)
    assert measured.per_class["class 90"] is None
    present = [value for value in measured.per_class.values() if value is not None]
    assert pytest.approx(np.mean(present), abs=1e-12) == measured.AP
    present = [value for value in measured.per_class_AP50.values() if value is not None]
    assert pytest.approx(np.mean(present), abs=1e-12) == measured.AP50


def test_names_are_in_the_order_of_pycocotools_stats():
    """Its summary prints what every number is; a name must stand for the same IoU, area and limit."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    rng = np.random.default_rng(0)
    truth = random_truth(rng)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        evaluation = COCOeval(coco, coco, "bbox")
        for annotation in truth["annotations"]:
            annotation["score"] = 1.0
        evaluation.evaluate()
        evaluation.accumulate()
        said.truncate(0)
        evaluation.summarize()
    lines = [line for line in said.getvalue().splitlines() if "Average" in line]
    assert len(lines) == len(METRICS)
    for name, line in zip(METRICS, lines, strict=True):
        assert f"({name[:2]})" in line
        iou = {"AP50": "0.50     ", "AP75": "0.75     "}.get(name, "0.50:0.95")
        area = {"s": " small", "m": "medium", "l": " large"}.get(name[-1], "   all")
        limit = {"AR1": "  1", "AR10": " 10"}.get(name, "100")
        assert f"IoU={iou}" in line
        assert f"area={area}" in line
        assert f"maxDets={limit}" in line


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6), ranks=st.integers(1, 5))
def test_does_not_depend_on_how_images_are_split_over_ranks(seed, ranks):
    rng = np.random.default_rng(seed)
    truth = random_truth(rng, images=5)
    rows = random_rows(rng, truth)
    owner = {image: int(rng.integers(0, ranks)) for image in rows.seen.tolist()}
    parts = []
    for rank in range(ranks):
        mine = np.array([owner[image] == rank for image in rows.image_ids.tolist()], bool)
        order = rng.permutation(int(mine.sum()))
        parts.append(
            DetectionRows(
                rows.image_ids[mine][order],
                rows.category_ids[mine][order],
                rows.boxes_xywh[mine][order],
                rows.scores[mine][order],
                np.array([i for i in rows.seen.tolist() if owner[i] == rank], np.int64),
            )
        )
    assert same(evaluate(truth, merge(parts)), evaluate(truth, rows))


def perfect(truth: dict) -> DetectionRows:
    objects = [a for a in truth["annotations"] if not a.get("iscrowd", 0)]
    return DetectionRows(
        np.array([a["image_id"] for a in objects], np.int64),
        np.array([a["category_id"] for a in objects], np.int64),
        np.array([a["bbox"] for a in objects], np.float64).reshape(-1, 4),
        np.full(len(objects), 0.9),
        np.array([image["id"] for image in truth["images"]], np.int64),
    )


@pytest.mark.parametrize("strict", [False, True])
def test_perfect_predictions_give_one_on_real_coco(coco_root, strict):
    truth = json.loads((coco_root / "annotations" / "instances_val2017.json").read_text())
    before = json.dumps(truth)
    measured = evaluate(truth, perfect(truth), strict=strict)
    assert pytest.approx(1.0) == measured.AP
    assert pytest.approx(1.0) == measured.AP50
    objects = {a["category_id"] for a in truth["annotations"] if not a["iscrowd"]}
    named = {c["name"] for c in truth["categories"] if c["id"] in objects}
    assert {name for name, value in measured.per_class.items() if value is not None} == named
    assert json.dumps(truth) == before  # the caller's ground truth is left alone


@pytest.mark.parametrize("strict", [False, True])
def test_no_detection_gives_zero(strict):
    truth = random_truth(np.random.default_rng(3))
    seen = np.array([image["id"] for image in truth["images"]], np.int64)
    none = DetectionRows.empty()
    rows = DetectionRows(none.image_ids, none.category_ids, none.boxes_xywh, none.scores, seen)
    assert evaluate(truth, rows, strict=strict).AP == 0.0


@pytest.mark.parametrize("strict", [False, True])
def test_without_any_ground_truth_nothing_is_claimed(strict):
    truth = random_truth(np.random.default_rng(3)) | {"annotations": []}
    rows = random_rows(np.random.default_rng(0), truth)
    measured = evaluate(truth, rows, strict=strict)
    assert math.isnan(measured.AP)
    assert measured.as_dict("val/") == {}
    assert set(measured.per_class.values()) == {None}
    assert "-" in _shown(measured)


def test_batches_become_rows_with_original_ids_and_without_fill_ups():
    boxes = torch.tensor([[[1.0, 2, 11, 22], [0, 0, 5, 5]], [[9.0, 9, 9, 9], [9, 9, 9, 9]]])
    detections = BatchDetections(boxes, torch.tensor([[0.5, 0.25], [1, 1]]), torch.tensor([[0, 2], [1, 1]]))
    rows = DetectionRows.from_detections(
        detections,
        torch.tensor([2**40, 5]),
        torch.tensor([True, False]),
        {0: 3, 1: 7, 2: 90},
    )
    assert rows.image_ids.tolist() == [2**40, 2**40]
    assert rows.seen.tolist() == [2**40]
    assert rows.category_ids.tolist() == [3, 90]
    assert rows.boxes_xywh.tolist() == [[1, 2, 10, 20], [0, 0, 5, 5]]
    as_list = DetectionRows.from_detections(
        detections, torch.tensor([2**40, 5]), torch.tensor([True, False]), [3, 7, 90]
    )
    assert as_list.category_ids.tolist() == [3, 90]


def test_a_batch_of_fill_ups_only_is_empty():
    detections = BatchDetections(torch.zeros(2, 3, 4), torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.long))
    rows = DetectionRows.from_detections(detections, torch.tensor([1, 1]), torch.zeros(2, dtype=bool), [4])
    assert len(rows) == 0
    assert len(rows.seen) == 0


def _changed(rows: DetectionRows, **arrays: np.ndarray) -> DetectionRows:
    return DetectionRows(**{**vars(rows), **arrays})


def test_images_missing_twice_or_unknown_are_named():
    truth = random_truth(np.random.default_rng(1))
    rows = random_rows(np.random.default_rng(1), truth)
    with pytest.raises(EvaluationError, match="never evaluated: image id 50"):
        evaluate(truth, _changed(rows, seen=rows.seen[:-1]))
    with pytest.raises(EvaluationError, match="more than once: image id 0"):
        evaluate(truth, _changed(rows, seen=np.append(rows.seen, 0)))
    with pytest.raises(EvaluationError, match="not in the ground truth: image id 77"):
        evaluate(truth, _changed(rows, seen=np.append(rows.seen, 77)))


def test_numbers_that_are_not_finite_are_refused_by_image():
    truth = random_truth(np.random.default_rng(1))
    rows = random_rows(np.random.default_rng(1), truth)
    scores, boxes = rows.scores.copy(), rows.boxes_xywh.copy()
    scores[4], boxes[5, 2] = np.nan, np.inf
    with pytest.raises(EvaluationError, match=f"score that is not finite: image id {rows.image_ids[4]}"):
        evaluate(truth, _changed(rows, scores=scores))
    with pytest.raises(EvaluationError, match=f"box that is not finite: image id {rows.image_ids[5]}"):
        evaluate(truth, _changed(rows, boxes_xywh=boxes))


def test_ground_truth_that_repeats_an_image_is_refused():
    truth = random_truth(np.random.default_rng(1))
    truth["images"].append(truth["images"][2])
    with pytest.raises(DataError, match="image id 20"):
        evaluate(truth, random_rows(np.random.default_rng(1), truth))


def _shown(metrics: CocoMetrics) -> str:
    from rich.console import Console

    screen = io.StringIO()
    Console(file=screen, width=120).print(metrics.table(classes=3))
    return screen.getvalue()


def test_is_quiet_and_shows_a_table(capsys):
    rng = np.random.default_rng(2)
    truth = random_truth(rng)
    truth["categories"][1]["name"] = truth["categories"][0]["name"] = "same"
    rows = random_rows(rng, truth)
    measured = [evaluate(truth, rows, strict=strict) for strict in (False, True)]
    assert capsys.readouterr().out == ""
    shown = _shown(measured[0])
    assert f"{100 * measured[0].AP:.1f}" in shown
    assert "1 more" in shown
    assert {"same (3)", "same (7)", "class 8", "class 90"} == set(measured[0].per_class)
    assert measured[0].as_dict("val/")["val/AP"] == measured[0].AP
    assert measured[0].class_rows()["class"] == list(measured[0].per_class)


def test_three_hundred_detections_per_image_are_counted_per_class():
    """150 confident strays of another class must not push an image's object off COCO's limit of 100."""
    truth = {
        "images": [{"id": 1}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 3, "bbox": [0, 0, 50, 50]}],
        "categories": [{"id": 3, "name": "a"}, {"id": 7, "name": "b"}],
    }
    rows = DetectionRows(
        np.ones(300, np.int64),
        np.array([7] * 250 + [3] * 50, np.int64),
        np.tile(np.array([0.0, 0, 50, 50]), (300, 1)),
        np.linspace(1, 0.1, 300),
        np.ones(1, np.int64),
    )
    measured = evaluate(truth, rows)
    assert measured.per_class == {"a": pytest.approx(1.0), "b": None}


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("first", [2**53, 2**63 - 2])
def test_ids_that_doubles_cannot_tell_apart_evaluate_as_small_ones_do(first, strict):
    truth = {
        "images": [{"id": 0}, {"id": 1}],
        "categories": [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}],
        "annotations": [
            {"image_id": 0, "category_id": 0, "bbox": [0, 0, 50, 50]},
            {"image_id": 1, "category_id": 1, "bbox": [10, 0, 50, 50]},
            {"image_id": 1, "category_id": 0, "bbox": [40, 40, 40, 60]},
        ],
    }
    boxes = np.array([[0.0, 0, 50, 50], [10, 0, 50, 50], [0, 0, 9, 9]])
    rows = DetectionRows(
        np.array([0, 1, 1]), np.array([0, 1, 0]), boxes, np.array([0.9, 0.8, 0.7]), np.array([0, 1])
    )
    large = DetectionRows(
        rows.image_ids + first, rows.category_ids + first, boxes, rows.scores, rows.seen + first
    )

    def shifted(entries, *fields):
        return [one | {field: one[field] + first for field in fields} for one in entries]

    there = {
        "images": shifted(truth["images"], "id"),
        "categories": shifted(truth["categories"], "id"),
        "annotations": shifted(truth["annotations"], "image_id", "category_id"),
    }
    small = evaluate(truth, rows, strict=strict)
    assert 0 < small.AP < 1
    np.testing.assert_equal(evaluate(there, large, strict=strict).as_dict(), small.as_dict())
    assert evaluate(there, large, strict=strict).per_class == small.per_class


@pytest.mark.parametrize("name", ["[/small]", "[red]", "a [b] c", "[link=x]y", ":smile:", "\\[bold]"])
def test_names_of_classes_are_printed_as_they_are(name):
    console = Console(record=True, width=120, file=io.StringIO())
    numbers = dict.fromkeys(METRICS, 0.5)
    console.print(CocoMetrics(**numbers, per_class={name: 0.25}, per_class_AP50={name: 0.5}).table())
    assert name in console.export_text()
