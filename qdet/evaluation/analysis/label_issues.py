"""Candidates for labels that are wrong or missing: where a confident model disagrees with the annotations.

They are for a person to look at: the model may be the one that errs.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int64

from qdet.evaluation.analysis.operating_point import OperatingPoint
from qdet.evaluation.matching.columns import Found, Truth
from qdet.evaluation.matching.overlaps import Overlaps, box_iou

MOST = 100
"""Candidates of each kind that are kept."""
SAME_PLACE = 0.5
"""IoU from which two boxes are taken to mean the same object."""


@dataclass(frozen=True)
class WrongLabel:
    """An object that the model is surer to be of another class."""

    image_id: int
    annotation_id: Any
    label: str
    suggested: str
    score: float
    """Of the detection of the suggested class."""
    own_score: float
    """Of the detection of the annotated class; 0 where there is none."""
    iou: float
    box_xywh: tuple[float, ...]
    """The annotated box."""


@dataclass(frozen=True)
class MissingLabel:
    """A confident detection where nothing is annotated."""

    image_id: int
    suggested: str
    score: float
    box_xywh: tuple[float, ...]


@dataclass(frozen=True)
class LabelIssues:
    """Candidates, the surest first, at most a hundred of each kind."""

    wrong: tuple[WrongLabel, ...]
    """Ordered by how much surer the model is of the suggested class."""
    missing: tuple[MissingLabel, ...]
    wrong_total: int
    missing_total: int


def find_label_issues(truth: Truth, found: Found, overlaps: Overlaps, point: OperatingPoint) -> LabelIssues:
    """Compare the wrong detections at the best thresholds with the annotations."""
    wrong = _wrong(truth, found, overlaps, point)
    missing = _missing(found, overlaps, point)
    return LabelIssues(
        wrong=tuple(wrong[:MOST]),
        missing=tuple(
            MissingLabel(
                image_id=int(truth.image_ids[found.images[d]]),
                suggested=truth.names[found.labels[d]],
                score=float(found.scores[d]),
                box_xywh=tuple(found.boxes_xywh[d].tolist()),
            )
            for d in missing[:MOST].tolist()
        ),
        wrong_total=len(wrong),
        missing_total=len(missing),
    )


def _wrong(truth: Truth, found: Found, overlaps: Overlaps, point: OperatingPoint) -> list[WrongLabel]:
    """Return objects that a wrong detection covers better than one of their class, once each."""
    d, o = overlaps.detections, overlaps.objects
    surer = found.scores[d] > point.object_score[o]
    other = found.labels[d] != truth.labels[o]
    keep = point.false[d] & ~truth.ignored[o] & other & surer & (overlaps.iou >= SAME_PLACE)
    pairs = overlaps.select(keep)
    margin = found.scores[pairs.detections] - point.object_score[pairs.objects]
    order = np.lexsort((pairs.objects, pairs.detections, -pairs.iou, -margin))
    _, first = np.unique(pairs.objects[order], return_index=True)
    return [
        WrongLabel(
            image_id=int(truth.image_ids[truth.images[pairs.objects[i]]]),
            annotation_id=truth.annotation_ids[pairs.objects[i]],
            label=truth.names[truth.labels[pairs.objects[i]]],
            suggested=truth.names[found.labels[pairs.detections[i]]],
            score=float(found.scores[pairs.detections[i]]),
            own_score=float(point.object_score[pairs.objects[i]]),
            iou=float(pairs.iou[i]),
            box_xywh=tuple(truth.boxes_xywh[pairs.objects[i]].tolist()),
        )
        for i in order[np.sort(first)].tolist()
    ]


def _missing(found: Found, overlaps: Overlaps, point: OperatingPoint) -> Int64[np.ndarray, " k"]:
    """Return wrong detections that overlap nothing annotated, best score first, one per place."""
    lonely = point.false.copy()
    lonely[overlaps.detections] = False
    kept: dict[int, list[int]] = {}
    ordered = np.flatnonzero(lonely)
    ordered = ordered[np.argsort(-found.scores[ordered], kind="stable")]
    chosen = []
    for d in ordered.tolist():
        others = kept.setdefault(int(found.images[d]), [])
        boxes = found.boxes_xywh[others].reshape(-1, 4)
        if not (box_iou(boxes, found.boxes_xywh[d : d + 1], np.zeros(1, bool)) >= SAME_PLACE).any():
            others.append(d)
            chosen.append(d)
    return np.array(chosen, np.int64)
