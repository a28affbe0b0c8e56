"""Curves, thresholds, confusion, calibration, labels and worst images against slow readings."""

import numpy as np
import pytest

from qdet.evaluation import DetectionRows, evaluate
from qdet.evaluation.analysis.calibration import calibrate
from qdet.evaluation.analysis.confusion import Confusion, confuse
from qdet.evaluation.analysis.curves import GRID, draw_curves
from qdet.evaluation.analysis.label_issues import LabelIssues, find_label_issues
from qdet.evaluation.analysis.operating_point import OperatingPoint, operate
from qdet.evaluation.analysis.worst import find_worst
from qdet.evaluation.matching.greedy import Matches
from tests.evaluation.test_error_kinds import BOX, iou, one_image
from tests.evaluation.test_matching import matched, random_problem


def settle(truth: dict, rows: DetectionRows):
    columns, found, overlaps, matches = matched(truth, rows)
    curves = draw_curves(columns, found, matches)
    return columns, found, overlaps, matches, curves, operate(columns, found, matches, curves)


def counted_at(found, matches: Matches, k: int, least: float) -> tuple[int, int]:
    """True positives and detections of at least that score, one by one."""
    hits = shown = 0
    for d in range(len(found)):
        if found.labels[d] == k and found.scores[d] >= least and not matches.ignored[0, d]:
            shown += 1
            hits += bool(matches.correct[0, d])
    return hits, shown


@pytest.mark.parametrize("seed", range(8))
def test_the_threshold_has_the_best_f1_of_all_scores(seed):
    columns, found, _, matches, curves, _ = settle(*random_problem(seed))
    objects = columns.objects()
    for k, (name, curve) in enumerate(curves.per_class.items()):
        tried = []
        for least in sorted(set(found.scores[found.labels == k].tolist()), reverse=True):
            hits, shown = counted_at(found, matches, k, least)
            if objects[k] and shown:
                tried.append((2 * hits / (shown + objects[k]), least, hits, shown))
        if not tried or max(tried)[0] == 0:
            assert np.isnan(curve.threshold), name
            continue
        f1, least, hits, shown = max(tried)  # of equals the highest score
        assert curve.f1 == pytest.approx(f1)
        assert curve.threshold == least
        assert curve.precision == pytest.approx(hits / shown)
        assert curve.recall == pytest.approx(hits / objects[k])


@pytest.mark.parametrize("seed", range(4))
def test_curves_over_score_count_what_is_at_least_the_score(seed):
    columns, found, _, matches, curves, _ = settle(*random_problem(seed))
    objects = columns.objects()
    for k, curve in enumerate(curves.per_class.values()):
        for i in range(0, 101, 5):
            hits, shown = counted_at(found, matches, k, GRID[i])
            assert curve.precision_by_score[i] == pytest.approx(
                hits / shown if shown else np.nan, nan_ok=True
            )
            if objects[k]:
                assert curve.recall_by_score[i] == pytest.approx(hits / objects[k])
                assert curve.f1_by_score[i] == pytest.approx(2 * hits / (shown + objects[k]))


@pytest.mark.parametrize("seed", range(8))
def test_the_mean_of_precision_by_recall_is_ap50(seed):
    truth, rows = random_problem(seed)
    curves = settle(truth, rows)[4]
    for name, expected in evaluate(truth, rows).per_class_AP50.items():
        mean = curves.per_class[name].precision_by_recall.mean()
        assert mean == pytest.approx(np.nan if expected is None else expected, abs=1e-12, nan_ok=True)


def test_a_class_without_a_threshold_takes_the_overall_one():
    truth, rows = one_image([(1, BOX), (2, BOX)], [(1, BOX, 0.7), (2, (50, 50, 9, 9), 0.6)])
    curves = settle(truth, rows)[4]
    assert np.isnan(curves.per_class["b"].threshold)
    assert curves.thresholds().tolist() == [0.7, 0.7]
    assert settle(*one_image([(1, BOX)], []))[4].thresholds().tolist() == [0, 0]


def literal_confusion(columns, found, matches: Matches, point: OperatingPoint) -> np.ndarray:
    away = len(columns.names)
    counts = np.zeros((away + 1, away + 1), int)
    free = {g for g in range(len(columns.images)) if not columns.ignored[g]}
    shown = [d for d in range(len(found)) if point.shown[d]]
    for d in shown:
        if matches.correct[0, d]:
            counts[found.labels[d], found.labels[d]] += 1
            free.discard(int(matches.objects[0, d]))
    for d in shown:  # best score first in every image
        if matches.correct[0, d]:
            continue
        near = [(iou(found.boxes_xywh[d], columns.boxes_xywh[g]), g) for g in free
                if columns.images[g] == found.images[d]]  # fmt: skip
        best = max(near, default=(0, None))
        if best[0] >= 0.5:
            free.discard(best[1])
            counts[columns.labels[best[1]], found.labels[d]] += 1
        else:
            counts[away, found.labels[d]] += 1
    for g in free:
        counts[columns.labels[g], away] += 1
    return counts


@pytest.mark.parametrize("seed", range(12))
def test_confusion_equals_a_literal_reading(seed):
    columns, found, overlaps, matches, _, point = settle(*random_problem(seed))
    confusion = confuse(columns, found, overlaps, matches, point)
    np.testing.assert_array_equal(confusion.counts, literal_confusion(columns, found, matches, point))
    assert confusion.counts[:-1].sum(1).tolist() == columns.objects().tolist()
    assert confusion.counts[:, :-1].sum() == point.shown.sum()
    assert np.trace(confusion.counts) == point.correct.sum()


def test_an_object_of_another_class_on_top_is_not_taken_from_its_own_detection():
    """Without regard to class, the surer of two right detections would take the wrong object."""
    near = (0.0, 0.0, 10.0, 10.5)
    truth, rows = one_image([(1, BOX), (2, near)], [(1, near, 0.9), (2, BOX, 0.8)])
    columns, found, overlaps, matches, _, point = settle(truth, rows)
    assert confuse(columns, found, overlaps, matches, point).counts.tolist() == [
        [1, 0, 0],
        [0, 1, 0],
        [0, 0, 0],
    ]


def test_the_most_common_confusions_come_first():
    counts = np.array([[5, 3, 0, 1], [7, 2, 0, 0], [0, 1, 0, 0], [9, 9, 9, 0]], np.int64)
    confusion = Confusion(("a", "b", "c"), counts)
    assert confusion.most_common() == [("b", "a", 7), ("a", "b", 3), ("c", "b", 1)]
    assert confusion.most_common(1) == [("b", "a", 7)]


@pytest.mark.parametrize("seed", range(8))
def test_calibration_is_that_of_hotcoco(seed):
    hotcoco = pytest.importorskip("hotcoco")
    truth, rows = random_problem(seed)
    columns, found, _, matches = matched(truth, rows)
    ours = calibrate(columns, found, matches)
    ordered = rows.in_order()
    results = [
        {"image_id": int(i), "category_id": int(c), "bbox": b.tolist(), "score": float(s)}
        for i, c, b, s in zip(
            ordered.image_ids, ordered.category_ids, ordered.boxes_xywh, ordered.scores, strict=True
        )
    ]
    coco = hotcoco.COCO(truth)
    run = hotcoco.COCOeval(coco, coco.load_res(results), "bbox")
    run.evaluate()
    theirs = run.calibration(n_bins=10, iou_threshold=0.5)
    assert ours.ece == pytest.approx(theirs["ece"])
    assert ours.mce == pytest.approx(theirs["mce"])
    assert ours.counts.tolist() == [b["count"] for b in theirs["bins"]]
    filled = ours.counts > 0
    assert ours.precisions[filled] == pytest.approx([b["avg_accuracy"] for b in theirs["bins"] if b["count"]])
    assert ours.scores[filled] == pytest.approx([b["avg_confidence"] for b in theirs["bins"] if b["count"]])
    for name, value in theirs["per_category"].items():
        assert ours.per_class[name] == pytest.approx(value)


def test_calibration_of_nothing_is_not_a_number():
    columns, found, _, matches = matched(*one_image([(1, BOX)], []))
    assert np.isnan(calibrate(columns, found, matches).ece)


def issues(objects, detections) -> LabelIssues:
    columns, found, overlaps, _, _, point = settle(*one_image(objects, detections))
    return find_label_issues(columns, found, overlaps, point)


FAR = (100.0, 100.0, 10.0, 10.0)
RIGHT = [(1, FAR), (2, (200.0, 0.0, 10.0, 10.0))]
FOUND = [(1, FAR, 0.8), (2, (200.0, 0.0, 10.0, 10.0), 0.8)]


def test_a_sure_detection_of_another_class_makes_a_label_suspect():
    found = issues([*RIGHT, (1, BOX)], [*FOUND, (2, (0, 0, 10, 11), 0.9)])
    (wrong,) = found.wrong
    assert (wrong.annotation_id, wrong.label, wrong.suggested, wrong.score) == (3, "a", "b", 0.9)
    assert wrong.iou == pytest.approx(100 / 110)
    assert wrong.own_score == 0
    assert wrong.box_xywh == BOX
    assert not found.missing
    assert found.wrong_total == 1


def test_a_label_that_its_own_class_finds_more_surely_is_not_suspect():
    assert not issues([*RIGHT, (1, BOX)], [*FOUND, (2, BOX, 0.9), (1, BOX, 0.95)]).wrong
    (wrong,) = issues([*RIGHT, (1, BOX)], [*FOUND, (2, BOX, 0.9), (1, BOX, 0.85)]).wrong
    assert wrong.own_score == 0.85


def test_a_label_is_suspected_once_by_the_surest():
    found = issues([*RIGHT, (1, BOX)], [*FOUND, (2, BOX, 0.9), (2, (0, 0, 10, 11), 0.95)])
    assert [w.score for w in found.wrong] == [0.95]


def test_a_sure_detection_of_nothing_makes_a_label_missing_once_per_place():
    found = issues(RIGHT, [*FOUND, (2, BOX, 0.9), (1, (0, 0, 10, 11), 0.95), (1, FAR, 0.85)])
    (missing,) = found.missing
    assert (missing.suggested, missing.score, missing.image_id) == ("a", 0.95, 1)
    assert not issues(RIGHT, [*FOUND, (2, BOX, 0.1)]).missing  # below the threshold of its class


@pytest.mark.parametrize("seed", range(5))
def test_the_worst_images_add_up(seed):
    columns, found, _, _, _, point = settle(*random_problem(seed, images=8))
    worst = find_worst(columns, found, point)
    for one in (*worst.false, *worst.missed):
        kinds = [box.kind for box in one.boxes]
        image = int(np.searchsorted(columns.image_ids, one.image_id))
        assert one.false == kinds.count("false") == (point.false & (found.images == image)).sum()
        assert one.missed == kinds.count("missed") == (point.missed & (columns.images == image)).sum()
        assert one.correct == kinds.count("correct") == kinds.count("found")
    assert sum(one.false for one in worst.false) == point.false.sum()
    assert sum(one.missed for one in worst.missed) == point.missed.sum()
    assert [one.missed for one in worst.missed] == sorted((one.missed for one in worst.missed), reverse=True)
    certainty = [sum(b.score for b in one.boxes if b.kind == "false") for one in worst.false]
    assert certainty == sorted(certainty, reverse=True)
