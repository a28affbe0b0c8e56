"""COCO average precision with named metrics.

Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014; https://cocodataset.org/#detection-eval.
`qdet.evaluation.engines` computes the numbers.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Int64
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from qdet.errors import DataError
from qdet.evaluation.engines import Boxes, Engine, Measured, mean, measure
from qdet.evaluation.rows import DetectionRows, ObjectRows, check_seen

T = TypeVar("T")
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

    @staticmethod
    def of(measured: Measured, categories: Sequence[Mapping[str, Any]]) -> "CocoMetrics":
        """Name what was measured for COCO's `categories`, in the order of their ids."""
        # [T thresholds, R recalls, K classes, A areas, M limits]; area 0 is all sizes, the last limit is 100.
        precision = measured.precision[:, :, :, 0, -1]
        names = class_names(categories)
        named = [names[category] for category in sorted(names)]
        return CocoMetrics(
            **{name: _or(math.nan, float(s)) for name, s in zip(METRICS, measured.stats, strict=True)},
            per_class={name: _or(None, mean(precision[:, :, k])) for k, name in enumerate(named)},
            per_class_AP50={name: _or(None, mean(precision[:1, :, k])) for k, name in enumerate(named)},
        )

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
    images = distinct_ids([image["id"] for image in ground_truth["images"]])
    check_seen(rows.seen, images)
    rows.check()
    objects = ObjectRows.from_annotations(ground_truth["annotations"])
    categories = np.unique(np.array([c["id"] for c in ground_truth["categories"]], np.int64))
    measured = measure_rows(objects, rows, images, categories, engine="pycocotools" if strict else engine)
    return CocoMetrics.of(measured, ground_truth["categories"])


def distinct_ids(images: Sequence[int] | Int64[np.ndarray, " m"]) -> Int64[np.ndarray, " m"]:
    """Return the ids of images in their order; raise `DataError` where one is there twice."""
    distinct, times = np.unique(np.asarray(images, np.int64), return_counts=True)
    if (times > 1).any():
        raise DataError(f"ground truth holds image id {distinct[times > 1][0]} more than once")
    return distinct


def measure_rows(
    objects: ObjectRows,
    rows: DetectionRows,
    images: Int64[np.ndarray, " m"],
    categories: Int64[np.ndarray, " k"],
    *,
    engine: Engine = "auto",
) -> Measured:
    """Match detections with objects in these images and of these categories; others count in no AP.

    Args:
        objects: What is there.
        rows: What was found, in any order.
        images: Ids, ascending. Engines get them numbered from 0, in their order, which ties are broken by:
            faster-coco-eval holds ids as doubles, in which those above 2^53 are no longer different.
        categories: Ids, ascending.
        engine: What matches them.
    """

    def number(given: ObjectRows | DetectionRows) -> dict[str, Int64[np.ndarray, " n"]]:
        return {
            "images": np.searchsorted(images, given.image_ids),
            "categories": np.searchsorted(categories, given.category_ids),
        }

    kept = np.isin(objects.image_ids, images) & np.isin(objects.category_ids, categories)
    objects = objects.select(kept)
    rows = rows.select(np.isin(rows.category_ids, categories)).in_order()
    truth = Boxes(**number(objects), boxes_xywh=objects.boxes_xywh, area=objects.areas, crowd=objects.crowd)
    found = Boxes(
        **number(rows),
        boxes_xywh=rows.boxes_xywh,
        area=rows.boxes_xywh[:, 2] * rows.boxes_xywh[:, 3],
        crowd=np.zeros(len(rows), np.int64),
        scores=rows.scores,
    )
    return measure(truth, found, images=len(images), categories=len(categories), engine=engine)


def _or(missing: T, value: float) -> T | float:
    """Return the value, or what stands for one that could not be measured."""
    return value if value > -1 else missing


def class_names(categories: Sequence[Mapping[str, Any]]) -> dict[int, str]:
    """Return names by category id, with the id appended where a name is not unique."""
    times = Counter(category["name"] for category in categories)
    return {c["id"]: c["name"] if times[c["name"]] == 1 else f"{c['name']} ({c['id']})" for c in categories}


def _percent(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{100 * value:.1f}"
