"""Detections as flat rows, which ranks exchange and COCO AP is computed from.

n detections   m images   B images of a batch   q detections per image
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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

    def check(self, planned: Sequence[int]) -> None:
        """Raise `EvaluationError` for missing, repeated or unknown images and non-finite numbers."""
        seen, times = np.unique(self.seen, return_counts=True)
        wanted = np.asarray(planned, np.int64)
        problems = {
            "never evaluated": np.setdiff1d(wanted, seen),
            "evaluated more than once": seen[times > 1],
            "evaluated but not in the ground truth": np.setdiff1d(seen, wanted),
            "with detections but not marked as evaluated": np.setdiff1d(self.image_ids, seen),
            "with a score that is not finite": np.unique(self.image_ids[~np.isfinite(self.scores)]),
            "with a box that is not finite": np.unique(self.image_ids[~np.isfinite(self.boxes_xywh).all(1)]),
        }
        found = [f"{len(ids)} images {what}: {_some(ids)}" for what, ids in problems.items() if len(ids)]
        if found:
            raise EvaluationError("cannot compute AP; " + "; ".join(found))


def merge(rows: Sequence[DetectionRows]) -> DetectionRows:
    """Concatenate the rows of several batches or ranks."""
    parts = (DetectionRows.empty(), *rows)
    return DetectionRows(
        image_ids=np.concatenate([part.image_ids for part in parts]),
        category_ids=np.concatenate([part.category_ids for part in parts]),
        boxes_xywh=np.concatenate([part.boxes_xywh for part in parts]),
        scores=np.concatenate([part.scores for part in parts]),
        seen=np.concatenate([part.seen for part in parts]),
    )


def _some(ids: np.ndarray, most: int = 10) -> str:
    names = ", ".join(f"image id {i}" for i in ids[:most].tolist())
    return f"{names}, ..." if len(ids) > most else names
