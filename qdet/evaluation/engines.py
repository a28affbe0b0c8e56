"""The libraries that match boxes as COCO does, behind one function: columns in, precision and recall out.

All give the same numbers (`tests/evaluation/test_engines.py`). pycocotools is the reference; hotcoco takes
columns as they are, the others a dict for each annotation.
"""

import contextlib
import io
from collections.abc import Callable, Mapping, Sequence
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
    """What an engine computes, each category by itself.

    T IoU thresholds, 0.50 to 0.95   R recalls   K categories   A sizes: all, small, medium, large
    M most detections per image and category: 1, 10, 100
    """

    precision: Float64[np.ndarray, "T=10 R=101 K A=4 M=3"]
    """-1 without ground truth."""
    recall: Float64[np.ndarray, "T=10 K A=4 M=3"]
    """The highest that is reached; -1 without ground truth."""

    @staticmethod
    def join(parts: Sequence["Measured"], categories: Sequence[Int64[np.ndarray, " _k"]]) -> "Measured":
        """Put together parts that hold each category once; `categories` numbers those of each part."""
        place = np.argsort(np.concatenate(categories))
        return Measured(
            np.concatenate([part.precision for part in parts], axis=2)[:, :, place],
            np.concatenate([part.recall for part in parts], axis=1)[:, place],
        )

    @property
    def stats(self) -> Float64[np.ndarray, "12"]:
        """COCO's twelve numbers in pycocotools' order; -1 where there is no ground truth."""
        every, sizes, most = slice(None), (1, 2, 3), (0, 1, 2)
        average_precision = (
            *(self.precision[which, ..., 0, -1] for which in (every, [0], [5])),
            *(self.precision[..., size, -1] for size in sizes),
        )
        average_recall = (
            *(self.recall[..., 0, limit] for limit in most),
            *(self.recall[..., size, -1] for size in sizes),
        )
        return np.array([mean(values) for values in average_precision + average_recall])


def mean(values: Float64[np.ndarray, "..."]) -> float:
    """Return the mean of what could be measured; -1 where nothing could."""
    measured = values[values > -1]
    return float(measured.mean()) if measured.size else -1.0


def measure(truth: Boxes, found: Boxes, *, images: int, categories: int, engine: Engine = "auto") -> Measured:
    """Match boxes as COCO does.

    Args:
        truth: The objects.
        found: The detections; equal scores count in this order.
        images: How many images there are.
        categories: How many categories there are.
        engine: What computes them.
    """
    if not categories:
        return Measured(np.zeros((10, 101, 0, 4, 3)), np.zeros((10, 0, 4, 3)))
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
    return Measured(np.asarray(evaluation.eval["precision"]), np.asarray(evaluation.eval["recall"]))


def _categories(count: int) -> list[dict[str, Any]]:
    return [{"id": i, "name": str(i)} for i in range(count)]


_ENGINES: dict[str, Callable[[Boxes, Boxes, Mapping[str, Any]], Measured]] = {
    "hotcoco": _run_hotcoco,
    "faster-coco-eval": _run_faster,
    "pycocotools": _run_pycocotools,
}
