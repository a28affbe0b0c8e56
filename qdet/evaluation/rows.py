"""Detections and objects as flat rows, which ranks exchange and COCO AP is computed from.

n detections or objects   m images   B images of a batch   q detections per image
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int, Int64
from torch import Tensor

from qdet.errors import EvaluationError
from qdet.types import BatchDetections


@dataclass(frozen=True)
class DetectionRows:
    """One row per detection, in the dataset's own image and category ids and the image file's pixels."""

    image_ids: Int64[np.ndarray, " n"]
    category_ids: Int64[np.ndarray, " n"]
    boxes_xywh: Float64[np.ndarray, "n 4"]
    scores: Float64[np.ndarray, " n"]
    seen: Int64[np.ndarray, " m"]
    """Ids of the evaluated images, including those without a detection."""

    def __len__(self) -> int:
        return len(self.scores)

    @staticmethod
    def empty() -> "DetectionRows":
        """Return no detections of no images."""
        no_ids = np.zeros(0, np.int64)
        return DetectionRows(no_ids, no_ids, np.zeros((0, 4)), np.zeros(0), no_ids)

    @staticmethod
    def from_detections(
        detections: BatchDetections,
        image_ids: Int[Tensor, " B"],
        valid: Bool[Tensor, " B"],
        category_ids: Mapping[int, int] | Sequence[int],
    ) -> "DetectionRows":
        """Flatten a batch, without its padding images.

        `category_ids` gives the dataset's id of every contiguous label.
        """
        keep = valid.cpu().numpy()
        ids = image_ids.cpu().numpy().astype(np.int64)[keep]
        boxes = detections.boxes_xyxy.detach().double().cpu().numpy()[keep].reshape(-1, 4)
        labels = detections.labels.cpu().numpy()[keep].reshape(-1)
        original = np.array([category_ids[label] for label in range(len(category_ids))], np.int64)
        return DetectionRows(
            image_ids=np.repeat(ids, detections.scores.shape[1]),
            category_ids=original[labels],
            boxes_xywh=np.concatenate((boxes[:, :2], boxes[:, 2:] - boxes[:, :2]), axis=1),
            scores=detections.scores.detach().double().cpu().numpy()[keep].reshape(-1),
            seen=ids,
        )

    def in_order(self) -> "DetectionRows":
        """Sort by image, best score first; ties by category and box.

        COCO AP breaks ties of scores by position, so only a total order makes it independent of the ranks.
        """
        order = np.lexsort((*self.boxes_xywh.T[::-1], self.category_ids, -self.scores, self.image_ids))
        return DetectionRows(
            self.image_ids[order],
            self.category_ids[order],
            self.boxes_xywh[order],
            self.scores[order],
            np.sort(self.seen),
        )

    def select(self, kept: Bool[np.ndarray, " n"]) -> "DetectionRows":
        """Return some rows, of the same images."""
        return replace(
            self,
            image_ids=self.image_ids[kept],
            category_ids=self.category_ids[kept],
            boxes_xywh=self.boxes_xywh[kept],
            scores=self.scores[kept],
        )

    def check(self) -> None:
        """Raise `EvaluationError` for detections in images that were not evaluated and non-finite numbers."""
        _refuse(
            {
                "with detections but not marked as evaluated": np.setdiff1d(self.image_ids, self.seen),
                "with a score that is not finite": np.unique(self.image_ids[~np.isfinite(self.scores)]),
                "with a box that is not finite": np.unique(
                    self.image_ids[~np.isfinite(self.boxes_xywh).all(1)]
                ),
            }
        )


@dataclass(frozen=True)
class ObjectRows:
    """One row per annotated object, in the dataset's own image and category ids."""

    image_ids: Int64[np.ndarray, " n"]
    category_ids: Int64[np.ndarray, " n"]
    boxes_xywh: Float64[np.ndarray, "n 4"]
    areas: Float64[np.ndarray, " n"]
    crowd: Int64[np.ndarray, " n"]

    @staticmethod
    def from_annotations(annotations: Sequence[Mapping[str, Any]]) -> "ObjectRows":
        """Read COCO's annotations."""
        return ObjectRows(
            np.array([a["image_id"] for a in annotations], np.int64),
            np.array([a["category_id"] for a in annotations], np.int64),
            np.array([a["bbox"] for a in annotations], np.float64).reshape(-1, 4),
            np.array([a.get("area", a["bbox"][2] * a["bbox"][3]) for a in annotations], np.float64),
            np.array([a.get("iscrowd", 0) for a in annotations], np.int64),
        )

    def select(self, kept: Bool[np.ndarray, " n"]) -> "ObjectRows":
        """Return some rows."""
        return ObjectRows(*(column[kept] for column in vars(self).values()))


def check_seen(seen: Int64[np.ndarray, " m"], planned: Int64[np.ndarray, " _"]) -> None:
    """Raise `EvaluationError` unless the images that were evaluated are the `planned` ones, each once."""
    distinct, times = np.unique(seen, return_counts=True)
    _refuse(
        {
            "never evaluated": np.setdiff1d(planned, distinct),
            "evaluated more than once": distinct[times > 1],
            "evaluated but not in the ground truth": np.setdiff1d(distinct, planned),
        }
    )


def merge(rows: Sequence[DetectionRows]) -> DetectionRows:
    """Concatenate the rows of several batches or ranks."""
    return DetectionRows(**_concatenate(DetectionRows.empty(), *rows))


def merge_objects(rows: Sequence[ObjectRows]) -> ObjectRows:
    """Concatenate the rows of several ranks."""
    return ObjectRows(**_concatenate(ObjectRows.from_annotations([]), *rows))


def _concatenate(*rows: DetectionRows | ObjectRows) -> dict[str, np.ndarray]:
    return {name: np.concatenate([vars(part)[name] for part in rows]) for name in vars(rows[0])}


def _refuse(problems: Mapping[str, np.ndarray]) -> None:
    """Raise `EvaluationError` that names images by what is wrong with them, if there are any."""
    found = [f"{len(ids)} images {what}: {_some(ids)}" for what, ids in problems.items() if len(ids)]
    if found:
        raise EvaluationError("cannot compute AP; " + "; ".join(found))


def _some(ids: np.ndarray, most: int = 10) -> str:
    names = ", ".join(f"image id {i}" for i in ids[:most].tolist())
    return f"{names}, ..." if len(ids) > most else names
