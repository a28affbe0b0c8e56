"""TIDE against a slow literal reading of the paper and its authors' choices, and against hotcoco's counts."""

import numpy as np
import pytest

from qdet.evaluation import DetectionRows, evaluate
from qdet.evaluation.analysis.error_kinds import KINDS, ErrorKinds, split_errors
from tests.evaluation.test_matching import distinct, matched

NAMES = dict(zip(("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss"), KINDS, strict=True))


def split(truth: dict, rows: DetectionRows) -> ErrorKinds:
    return split_errors(*matched(truth, rows))


def iou(a, b) -> float:
    w = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    h = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    shared = max(w, 0) * max(h, 0)
    return shared / (a[2] * a[3] + b[2] * b[3] - shared)


def ap(points: list[tuple[float, bool]], objects: int) -> float:
    """101-point AP of (score, correct) in order of ties."""
    precision, recall, hits = [], [], 0
    for n, (_, correct) in enumerate(sorted(points, key=lambda p: -p[0]), start=1):
        hits += correct
        precision.append(hits / n)
        recall.append(hits / objects)
    total = 0.0
    for r in np.linspace(0, 1, 101):
        total += max((p for p, reached in zip(precision, recall, strict=True) if reached >= r), default=0.0)
    return total / 101


def literal_tide(truth: dict, rows: DetectionRows):
    """Name every error, mend each kind alone; detections and objects are dicts, as on paper."""
    rows = rows.in_order()
    objects = [dict(a, used=False, mender=None) for a in truth["annotations"]]
    detections = []
    for i in range(len(rows)):
        d = {"image": rows.image_ids[i], "class": rows.category_ids[i], "box": rows.boxes_xywh[i].tolist()}
        detections.append(d | {"score": rows.scores[i], "correct": False, "ignored": False, "kind": None})
    for d in detections:
        d["near"] = [(iou(d["box"], o["bbox"]), o) for o in objects if o["image_id"] == d["image"]]
    for d in detections:  # best score first in every image
        own = [(v, k, o) for k, (v, o) in enumerate(d["near"]) if o["category_id"] == d["class"]]
        free = [(v, k, o) for v, k, o in own if not o["iscrowd"] and not o["used"] and v >= 0.5]
        if free:
            best = max(free, key=lambda t: t[:2])[2]
            best["used"] = d["correct"] = True
            continue
        for _, _, crowd in own:
            if crowd["iscrowd"]:
                b, c = d["box"], crowd["bbox"]
                w = min(b[0] + b[2], c[0] + c[2]) - max(b[0], c[0])
                h = min(b[1] + b[3], c[1] + c[3]) - max(b[1], c[1])
                d["ignored"] |= max(w, 0) * max(h, 0) / (b[2] * b[3]) >= 0.5
    for d in detections:
        if d["correct"] or d["ignored"]:
            continue
        near = [(v, o) for v, o in d["near"] if not o["iscrowd"]]
        same = [(v, o) for v, o in near if o["category_id"] == d["class"]]
        other = [(v, o) for v, o in near if o["category_id"] != d["class"]]
        best_same = max(same, key=lambda t: t[0], default=(0.0, None))
        best_other = max(other, key=lambda t: t[0], default=(0.0, None))
        if 0.1 <= best_same[0] <= 0.5:
            d["kind"], d["target"] = "Loc", best_same[1]
        elif best_other[0] >= 0.5:
            d["kind"], d["target"] = "Cls", best_other[1]
        elif any(o["used"] and v >= 0.5 for v, o in same):
            d["kind"] = "Dupe"
        elif max(best_same[0], best_other[0]) <= 0.1:
            d["kind"] = "Bkg"
        else:
            d["kind"] = "Both"
    for d in detections:
        if d["kind"] in ("Loc", "Cls") and not d["target"]["used"]:
            mender = d["target"]["mender"]
            if mender is None or mender["score"] < d["score"]:
                d["target"]["mender"] = d
    real = [o for o in objects if not o["iscrowd"]]
    missed = [o for o in real if not o["used"]]
    alone = [o for o in missed if o["mender"] is None]
    classes = sorted({o["category_id"] for o in real})
    count = {c: sum(o["category_id"] == c for o in real) for c in classes}

    def mean_ap(mended: str | None = None, forgiven=(), only_correct: bool = False) -> float:
        each = []
        for c in classes:
            points = []
            for d in detections:
                label, correct = d["class"], d["correct"]
                if d["ignored"] or (only_correct and not correct):
                    continue
                if d["kind"] == mended and mended is not None:
                    if mended not in ("Loc", "Cls") or d["target"]["mender"] is not d:
                        continue
                    label, correct = d["target"]["category_id"], True
                if label == c:
                    points.append((d["score"], correct))
            objects_left = count[c] - sum(o["category_id"] == c for o in forgiven)
            each.append(ap(points, objects_left) if objects_left else 1.0)
        return float(np.mean(each))

    base = mean_ap()
    cost = {kind: mean_ap(kind) - base for kind in ("Cls", "Loc", "Both", "Dupe", "Bkg")}
    cost["Miss"] = mean_ap(forgiven=alone) - base
    counts = {kind: sum(d["kind"] == kind for d in detections) for kind in cost} | {"Miss": len(alone)}
    special = (mean_ap(only_correct=True) - base, mean_ap(forgiven=missed) - base)
    return base, {k: max(v, 0.0) for k, v in cost.items()}, counts, special


@pytest.mark.parametrize("seed", range(25))
def test_equals_a_literal_reading(seed):
    truth, rows = distinct(seed)
    base, cost, counts, special = literal_tide(truth, rows)
    found = split(truth, rows)
    assert pytest.approx(base, abs=1e-12) == found.AP50
    assert pytest.approx(evaluate(truth, rows).AP50, abs=1e-12) == found.AP50
    assert {NAMES[k]: n for k, n in counts.items()} == found.counts
    assert found.cost == pytest.approx({NAMES[k]: v for k, v in cost.items()}, abs=1e-9)
    assert (found.false_positives, found.false_negatives) == pytest.approx(special, abs=1e-9)


def test_the_random_problems_hold_every_kind_of_error():
    totals = dict.fromkeys(KINDS, 0)
    costs = dict.fromkeys(KINDS, 0.0)
    for seed in range(25):
        found = split(*distinct(seed))
        totals = {k: totals[k] + found.counts[k] for k in KINDS}
        costs = {k: costs[k] + found.cost[k] for k in KINDS}
    assert min(totals.values()) > 20
    assert min(costs.values()) > 0.01


@pytest.mark.parametrize("seed", range(10))
def test_kinds_are_counted_as_hotcoco_counts_them(seed):
    hotcoco = pytest.importorskip("hotcoco")
    truth, rows = distinct(seed)
    truth["annotations"] = [a for a in truth["annotations"] if not a["iscrowd"]]
    results = [
        {"image_id": int(i), "category_id": int(c), "bbox": b.tolist(), "score": float(s)}
        for i, c, b, s in zip(rows.image_ids, rows.category_ids, rows.boxes_xywh, rows.scores, strict=True)
    ]
    coco = hotcoco.COCO(truth)
    run = hotcoco.COCOeval(coco, coco.load_res(results), "bbox")
    run.evaluate()
    theirs = run.tide_errors(pos_thr=0.5, bg_thr=0.1)
    ours = split(truth, rows)
    assert {NAMES[k]: n for k, n in theirs["counts"].items()} == ours.counts
    assert theirs["ap_base"] == pytest.approx(ours.AP50, abs=1e-12)
    for kind in ("Both", "Dupe", "Bkg"):  # mended by leaving detections out, on which all agree
        assert theirs["delta_ap"][kind] == pytest.approx(ours.cost[NAMES[kind]], abs=1e-9)


def one_image(objects, detections) -> tuple[dict, DetectionRows]:
    """Objects (class, box); detections (class, box, score)."""
    truth = {
        "images": [{"id": 1}],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
        "annotations": [
            {"id": i, "image_id": 1, "category_id": c, "bbox": list(box), "iscrowd": 0}
            for i, (c, box) in enumerate(objects, start=1)
        ],
    }
    n = len(detections)
    rows = DetectionRows(
        np.ones(n, np.int64),
        np.array([d[0] for d in detections], np.int64),
        np.array([d[1] for d in detections], np.float64).reshape(-1, 4),
        np.array([d[2] for d in detections], np.float64),
        np.ones(1, np.int64),
    )
    return truth, rows


BOX = (0.0, 0.0, 10.0, 10.0)


@pytest.mark.parametrize(
    ("detection", "kind", "costs"),
    [
        ((2, BOX, 0.9), "classification", 1.0),
        ((1, (0, 0, 10, 4), 0.9), "localization", 1.0),
        ((2, (0, 0, 10, 4), 0.9), "both", 0.0),  # mending it leaves nothing in its place
        ((1, (50, 50, 10, 10), 0.9), "background", 0.0),
    ],
)
def test_a_single_wrong_detection(detection, kind, costs):
    found = split(*one_image([(1, BOX)], [detection]))
    assert found.counts[kind] == 1
    assert sum(n for name, n in found.counts.items() if name != "missed") == 1
    assert found.cost[kind] == pytest.approx(costs)
    assert found.counts["missed"] == (kind in ("both", "background"))


def test_a_duplicate_costs_where_it_comes_first_in_another_image_alone():
    found = split(*one_image([(1, BOX)], [(1, BOX, 0.9), (1, BOX, 0.8)]))
    assert found.counts["duplicate"] == 1
    assert found.cost["duplicate"] == 0


def test_nothing_detected_is_all_missed():
    found = split(*one_image([(1, BOX), (2, BOX)], []))
    assert found.AP50 == 0
    assert found.counts == dict.fromkeys(KINDS, 0) | {"missed": 2}
    assert found.cost["missed"] == found.false_negatives == 1
    assert found.per_class["a"]["missed"] == 1


def test_nothing_to_detect_costs_nothing_that_can_be_measured():
    found = split(*one_image([], [(1, BOX, 0.9)]))
    assert np.isnan(found.AP50)
    assert all(np.isnan(v) for v in found.cost.values())
    assert found.counts["background"] == 1
