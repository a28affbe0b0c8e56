"""COCO average precision of the detections of several ranks."""

from qdet.evaluation.coco import CocoMetrics, evaluate
from qdet.evaluation.rows import DetectionRows, merge

__all__ = ["CocoMetrics", "DetectionRows", "evaluate", "merge"]
