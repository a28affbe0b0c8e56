"""Losses: what a detector's stages are trained to minimise."""

from qdet.losses.matching import matched_objects
from qdet.losses.set_loss import Losses, SetLoss, SetLossConfig

__all__ = ["Losses", "SetLoss", "SetLossConfig", "matched_objects"]
