"""COCO average precision of detections that several ranks made."""

from qdet.evaluation.coco import CocoMetrics, evaluate
from qdet.evaluation.rows import DetectionRows, merge

__all__ = ["CocoMetrics", "DetectionRows", "evaluate", "merge"]
