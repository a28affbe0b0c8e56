"""Losses: what a detector's stages are trained to minimise."""

from qdet.losses.matching import matched_objects
from qdet.losses.presets import DAB_DETR, DETR, FOCAL_DETR, SPARSE_RCNN, SPARSE_RCNN_SOFTMAX
from qdet.losses.set_loss import Losses, SetLoss, SetLossConfig, counted_objects

__all__ = [
    "DAB_DETR",
    "DETR",
    "FOCAL_DETR",
    "SPARSE_RCNN",
    "SPARSE_RCNN_SOFTMAX",
    "Losses",
    "SetLoss",
    "SetLossConfig",
    "counted_objects",
    "matched_objects",
]
