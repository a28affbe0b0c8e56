"""The libraries that compute COCO's numbers, behind one function: columns in, statistics and precision out.

All give the same numbers (`tests/evaluation/test_engines.py`). pycocotools is the reference; hotcoco takes
columns as they are, the others a dict for each annotation.
"""

import contextlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64, Int64

Engine = Literal["auto", "hotcoco", "faster-coco-eval", "pycocotools"]
"""`auto` is hotcoco where it is installed, else faster-coco-eval."""


@dataclass(frozen=True)
class Boxes:
    """Objects or detections, with images and categories numbered from 0 in the order of their ids."""

    images: Int64[np.ndarray, " n"]
    categories: Int64[np.ndarray, " n"]
    boxes_xywh: Float64[np.ndarray, "n 4"]
    area: Float64[np.ndarray, " n"]
    crowd: Int64[np.ndarray, " n"]
    scores: Float64[np.ndarray, " n"] | None = None
    """Of detections."""

    def as_dicts(self) -> list[dict[str, Any]]:
        """Return COCO's annotations; ids begin at 1, as its matching takes id 0 for "no match"."""
        columns = {
            "image_id": self.images,
            "category_id": self.categories,
            "bbox": self.boxes_xywh,
            "area": self.area,
            "iscrowd": self.crowd,
        }
        columns |= {} if self.scores is None else {"score": self.scores}
        rows = zip(*(column.tolist() for column in columns.values()), strict=True)
        return [{"id": i, **dict(zip(columns, row, strict=True))} for i, row in enumerate(rows, start=1)]


@dataclass(frozen=True)
class Measured:
    """What an engine computes."""

    stats: Float64[np.ndarray, "12"]
    """In pycocotools' order; -1 where there is no ground truth."""
    precision: Float64[np.ndarray, "T R K A M"]
    """By IoU threshold, recall, category, area and limit of detections; -1 without ground truth."""


def measure(truth: Boxes, found: Boxes, *, images: int, categories: int, engine: Engine = "auto") -> Measured:
    """Compute COCO's numbers for boxes.

    Args:
        truth: The objects.
        found: The detections; equal scores count in this order.
        images: How many images there are.
        categories: How many categories there are.
        engine: What computes them.
    """
    if engine == "auto":
        engine = "hotcoco" if find_spec("hotcoco") else "faster-coco-eval"
    frame = {"images": [{"id": i} for i in range(images)], "categories": _categories(categories)}
    return _ENGINES[engine](truth, found, frame)


def _run_hotcoco(truth: Boxes, found: Boxes, frame: Mapping[str, Any]) -> Measured:
    from hotcoco import COCO, COCOeval

    objects = COCO.from_arrays(
        frame["images"],
        frame["categories"],
        truth.images,
        truth.categories,
        truth.boxes_xywh,
        area=truth.area,
        iscrowd=truth.crowd,
    )
    assert found.scores is not None
    columns = (found.images, found.boxes_xywh, found.scores, found.categories)
    detections = objects.load_res(np.column_stack(columns)) if len(found.images) else _empty(COCO, frame)
    return _run(COCOeval(objects, detections, "bbox"))


def _empty(coco: Any, frame: Mapping[str, Any]) -> Any:
    none = np.zeros(0, np.int64)
    return coco.from_arrays(frame["images"], frame["categories"], none, none, np.zeros((0, 4)))


def _run_faster(truth: Boxes, found: Boxes, frame: Mapping[str, Any]) -> Measured:
    from faster_coco_eval import COCO, COCOeval_faster

    return _run(COCOeval_faster(*_index(COCO, truth, found, frame), iouType="bbox"))


def _run_pycocotools(truth: Boxes, found: Boxes, frame: Mapping[str, Any]) -> Measured:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress and its table
        return _run(COCOeval(*_index(COCO, truth, found, frame), iouType="bbox"))


def _index(coco: Any, truth: Boxes, found: Boxes, frame: Mapping[str, Any]) -> list[Any]:
    indexed = []
    for boxes in (truth, found):
        one = coco()
        one.dataset = {**frame, "annotations": boxes.as_dicts()}
        one.createIndex()
        indexed.append(one)
    return indexed


def _run(evaluation: Any) -> Measured:
    evaluation.evaluate()
    evaluation.accumulate()
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.summarize()
    stats = np.asarray(evaluation.stats, np.float64)[:12]
    return Measured(stats, np.asarray(evaluation.eval["precision"]))


def _categories(count: int) -> list[dict[str, Any]]:
    return [{"id": i, "name": str(i)} for i in range(count)]


_ENGINES: dict[str, Callable[[Boxes, Boxes, Mapping[str, Any]], Measured]] = {
    "hotcoco": _run_hotcoco,
    "faster-coco-eval": _run_faster,
    "pycocotools": _run_pycocotools,
}
