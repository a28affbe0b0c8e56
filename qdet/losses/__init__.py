"""Losses of a detector's decoder stages."""

from qdet.losses.matching import matched_objects
from qdet.losses.presets import (
    DAB_DETR_LOSS,
    DETR_LOSS,
    DINO_LOSS,
    FOCAL_DETR_LOSS,
    SPARSE_RCNN_LOSS,
    SPARSE_RCNN_SOFTMAX_LOSS,
)
from qdet.losses.set_loss import Losses, SetLoss, SetLossConfig, counted_objects

__all__ = [
    "DAB_DETR_LOSS",
    "DETR_LOSS",
    "DINO_LOSS",
    "FOCAL_DETR_LOSS",
    "SPARSE_RCNN_LOSS",
    "SPARSE_RCNN_SOFTMAX_LOSS",
    "Losses",
    "SetLoss",
    "SetLossConfig",
    "counted_objects",
    "matched_objects",
]
