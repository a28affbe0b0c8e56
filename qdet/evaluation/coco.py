"""COCO average precision with named metrics.

Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014; https://cocodataset.org/#detection-eval.
`qdet.evaluation.engines` computes the numbers.
"""

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
from qdet.evaluation.engines import Boxes, Engine, measure
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


def evaluate(
    ground_truth: Mapping[str, Any], rows: DetectionRows, *, engine: Engine = "auto", strict: bool = False
) -> CocoMetrics:
    """Evaluate `rows` against a COCO dict with exactly the images to evaluate.

    Missing or repeated images and non-finite numbers raise `EvaluationError`. The result does not depend on
    the order of the rows. COCO's limit of 100 detections is per image and class, so models may
    give more per image. `strict` is the engine pycocotools.
    """
    images, categories = _numbers(ground_truth["images"], "image"), _numbers(ground_truth["categories"])
    rows.check(list(images))
    measured = measure(
        _objects(ground_truth["annotations"], images, categories),
        _detections(rows.in_order(), images, categories),
        images=len(images),
        categories=len(categories),
        engine="pycocotools" if strict else engine,
    )
    stats = [float(s) if s > -1 else math.nan for s in measured.stats]
    # [T thresholds, R recalls, K classes, A areas, M limits]; area 0 is all sizes, the last limit is 100.
    precision = measured.precision[:, :, :, 0, -1]
    names = class_names(ground_truth["categories"])
    named = [names[category] for category in sorted(names)]
    return CocoMetrics(
        **dict(zip(METRICS, stats, strict=True)),
        per_class={name: _mean(precision[:, :, k]) for k, name in enumerate(named)},
        per_class_AP50={name: _mean(precision[:1, :, k]) for k, name in enumerate(named)},
    )


def _numbers(entries: Sequence[Mapping[str, Any]], kind: str = "category") -> dict[int, int]:
    """Number ids from 0 in their order, which ties are broken by.

    faster-coco-eval holds ids as doubles, in which those above 2^53 are no longer different.
    """
    repeated = [i for i, times in Counter(entry["id"] for entry in entries).items() if times > 1]
    if repeated and kind == "image":
        raise DataError(f"ground truth holds image id {repeated[0]} more than once")
    return {given: number for number, given in enumerate(sorted({entry["id"] for entry in entries}))}


def _objects(
    annotations: Sequence[Mapping[str, Any]], images: Mapping[int, int], categories: Mapping[int, int]
) -> Boxes:
    """Return the annotations of these images and categories; others count in no AP."""
    kept = [a for a in annotations if a["image_id"] in images and a["category_id"] in categories]
    boxes = np.array([a["bbox"] for a in kept], np.float64).reshape(-1, 4)
    area = [a.get("area", a["bbox"][2] * a["bbox"][3]) for a in kept]
    return Boxes(
        np.array([images[a["image_id"]] for a in kept], np.int64),
        np.array([categories[a["category_id"]] for a in kept], np.int64),
        boxes,
        np.array(area, np.float64),
        np.array([a.get("iscrowd", 0) for a in kept], np.int64),
    )


def _detections(rows: DetectionRows, images: Mapping[int, int], categories: Mapping[int, int]) -> Boxes:
    """Return detections of these categories; others count in no AP."""
    known = np.array(sorted(categories), np.int64)
    kept = np.isin(rows.category_ids, known)
    boxes = rows.boxes_xywh[kept]
    return Boxes(
        np.searchsorted(np.array(sorted(images), np.int64), rows.image_ids[kept]),
        np.searchsorted(known, rows.category_ids[kept]),
        boxes,
        boxes[:, 2] * boxes[:, 3],
        np.zeros(len(boxes), np.int64),
        rows.scores[kept],
    )


def _mean(precision: np.ndarray) -> float | None:
    measured = precision[precision > -1]
    return float(measured.mean()) if measured.size else None


def class_names(categories: Sequence[Mapping[str, Any]]) -> dict[int, str]:
    """Return names by category id, with the id appended where a name is not unique."""
    times = Counter(category["name"] for category in categories)
    return {c["id"]: c["name"] if times[c["name"]] == 1 else f"{c['name']} ({c['id']})" for c in categories}


def _percent(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{100 * value:.1f}"
