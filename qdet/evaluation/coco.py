"""COCO average precision with named metrics.

Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014; https://cocodataset.org/#detection-eval.
faster-coco-eval computes the numbers; `strict` uses pycocotools, the slower reference.
"""

import contextlib
import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from qdet.errors import DataError
from qdet.evaluation.rows import DetectionRows

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
"""The twelve numbers in the order of pycocotools' `stats`."""


@dataclass(frozen=True, kw_only=True)
class CocoMetrics:
    """COCO's twelve numbers in [0, 1]; NaN where there is no ground truth, as `APs` without small objects."""

    AP: float
    """Mean over IoU thresholds 0.50, 0.55, ..., 0.95 and over classes."""
    AP50: float
    AP75: float
    APs: float
    """Of objects below 32^2 pixels; `APm` up to 96^2, `APl` above."""
    APm: float
    APl: float
    AR1: float
    """Average recall with 1 detection per image and class; `AR10` with 10, the others with 100."""
    AR10: float
    AR100: float
    ARs: float
    ARm: float
    ARl: float
    per_class: dict[str, float | None] = field(default_factory=dict)
    """AP of every class by name; None for a class without ground truth, which counts in no mean."""
    per_class_AP50: dict[str, float | None] = field(default_factory=dict)

    def as_dict(self, prefix: str = "") -> dict[str, float]:
        """The metrics that could be measured, by name."""
        values = {name: getattr(self, name) for name in METRICS}
        return {f"{prefix}{name}": value for name, value in values.items() if not math.isnan(value)}

    def class_rows(self) -> dict[str, list[Any]]:
        """The per-class table, by column."""
        return {
            "class": list(self.per_class),
            "AP": list(self.per_class.values()),
            "AP50": [self.per_class_AP50.get(name) for name in self.per_class],
        }

    def ranked_classes(self) -> list[str]:
        """Names of all classes, the best AP first, those without ground truth last."""
        return sorted(
            self.per_class, key=lambda n: -1 if (v := self.per_class[n]) is None else v, reverse=True
        )

    def table(self, *, classes: int = 100) -> Group:
        """Build a terminal table: the twelve numbers, then AP of up to `classes` classes, best first."""
        total = Table(box=box.SIMPLE_HEAD, title="COCO", title_justify="left", title_style="bold")
        for name in METRICS:
            total.add_column(name, justify="right", style="bold green" if name == "AP" else "")
        total.add_row(*(_percent(getattr(self, name)) for name in METRICS))
        each = Table(box=box.SIMPLE_HEAD)
        for title in ("class", "AP", "AP50"):
            each.add_column(title, justify="left" if title == "class" else "right")
        ranked = self.ranked_classes()
        for name in ranked[:classes]:
            each.add_row(Text(name), _percent(self.per_class[name]), _percent(self.per_class_AP50.get(name)))
        if len(ranked) > classes:
            each.add_row(f"... {len(ranked) - classes} more", "", "")
        return Group(total, each)


def evaluate(ground_truth: Mapping[str, Any], rows: DetectionRows, *, strict: bool = False) -> CocoMetrics:
    """Evaluate `rows` against a COCO dict with exactly the images to evaluate.

    Missing or repeated images and non-finite numbers raise `EvaluationError`. The result does not depend on
    the order of the rows. COCO's limit of 100 detections is per image and class, so models may
    give more per image.
    """
    truth = _truth(ground_truth)
    rows.check([image["id"] for image in truth["images"]])
    found = truth | {"annotations": _annotations(rows.in_order())}
    truth, found = _numbered(truth, found)
    evaluation = _run_pycocotools(truth, found) if strict else _run_faster(truth, found)
    stats = [float(s) if s > -1 else math.nan for s in evaluation.stats[: len(METRICS)]]
    # [T thresholds, R recalls, K classes, A areas, M limits]; area 0 is all sizes, the last limit is 100.
    precision = np.asarray(evaluation.eval["precision"])[:, :, :, 0, -1]
    names = class_names(ground_truth["categories"])
    named = [names[category] for category in sorted(names)]
    return CocoMetrics(
        **dict(zip(METRICS, stats, strict=True)),
        per_class={name: _mean(precision[:, :, k]) for k, name in enumerate(named)},
        per_class_AP50={name: _mean(precision[:1, :, k]) for k, name in enumerate(named)},
    )


def _truth(coco: Mapping[str, Any]) -> dict[str, Any]:
    """Copy what evaluation reads, with new annotation ids, as COCO's matching takes id 0 for "no match"."""
    annotations = []
    for number, given in enumerate(coco["annotations"], start=1):
        width, height = given["bbox"][2:]
        annotations.append(
            {
                "id": number,
                "image_id": given["image_id"],
                "category_id": given["category_id"],
                "bbox": list(given["bbox"]),
                "area": given.get("area", width * height),
                "iscrowd": given.get("iscrowd", 0),
            }
        )
    images = [{"id": image["id"]} for image in coco["images"]]
    repeated = [i for i, times in Counter(image["id"] for image in images).items() if times > 1]
    if repeated:
        raise DataError(f"ground truth holds image id {repeated[0]} more than once")
    return {"images": images, "annotations": annotations, "categories": [dict(c) for c in coco["categories"]]}


def _numbered(*datasets: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    """Number images and categories from 0 in the order of their ids.

    faster-coco-eval holds ids as doubles, in which those above 2^53 are no longer different. The order, which
    ties are broken by, stays.
    """
    first = datasets[0]
    images, categories = (
        {given: number for number, given in enumerate(sorted(entry["id"] for entry in first[kind]))}
        for kind in ("images", "categories")
    )
    return tuple(
        {
            "images": [{"id": images[image["id"]]} for image in dataset["images"]],
            "categories": [entry | {"id": categories[entry["id"]]} for entry in dataset["categories"]],
            "annotations": [
                one | {"image_id": images[one["image_id"]], "category_id": categories[one["category_id"]]}
                for one in dataset["annotations"]
                if one["image_id"] in images and one["category_id"] in categories  # others count in no AP
            ],
        }
        for dataset in datasets
    )


def _annotations(rows: DetectionRows) -> list[dict[str, Any]]:
    columns = (rows.image_ids, rows.category_ids, rows.boxes_xywh, rows.scores)
    return [
        {
            "id": number,
            "image_id": image,
            "category_id": category,
            "bbox": box,
            "area": box[2] * box[3],
            "iscrowd": 0,
            "score": score,
        }
        for number, (image, category, box, score) in enumerate(
            zip(*(column.tolist() for column in columns), strict=True), start=1
        )
    ]


def _run_faster(truth: dict[str, Any], found: dict[str, Any]) -> Any:
    from faster_coco_eval import COCO, COCOeval_faster

    return _run(COCO, COCOeval_faster, truth, found)


def _run_pycocotools(truth: dict[str, Any], found: dict[str, Any]) -> Any:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress and its table
        return _run(COCO, COCOeval, truth, found)


def _run(coco: Any, evaluator: Any, truth: dict[str, Any], found: dict[str, Any]) -> Any:
    indexed = []
    for dataset in (truth, found):
        one = coco()
        one.dataset = dataset
        one.createIndex()
        indexed.append(one)
    evaluation = evaluator(*indexed, iouType="bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation


def _mean(precision: np.ndarray) -> float | None:
    measured = precision[precision > -1]
    return float(measured.mean()) if measured.size else None


def class_names(categories: Sequence[Mapping[str, Any]]) -> dict[int, str]:
    """Return names by category id, with the id appended where a name is not unique."""
    times = Counter(category["name"] for category in categories)
    return {c["id"]: c["name"] if times[c["name"]] == 1 else f"{c['name']} ({c['id']})" for c in categories}


def _percent(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{100 * value:.1f}"
