"""A described model and its weights, put together."""

from collections.abc import Mapping

import torch
from torch import Tensor

from qdet.checkpoint.fit import load_weights
from qdet.checkpoint.run_folder import METRIC
from qdet.detectors.detector import Detector
from qdet.inference.description import Description, Precision
from qdet.inference.model import Model
from qdet.inference.runner import DetectorRunner
from qdet.layers.precision import name_emulator


def build(
    description: Description, weights: Mapping[str, Tensor], device: torch.device, precision: str
) -> Model:
    """Build the described detector with these weights.

    Raises:
        CheckpointError: They do not fit.
    """
    detector = build_empty(description)
    load_weights(detector, weights, source=description.source)
    return Model(description, DetectorRunner.of(detector, device, _settle(precision, description, device)))


def _settle(asked: str, description: Description, device: torch.device) -> Precision:
    """Return the precision to compute in: by default that of training, but no bf16 that is emulated."""
    if asked == "auto" and name_emulator(device):
        return "fp32"
    return "bf16" if (description.precision if asked == "auto" else asked) == "bf16" else "fp32"


def build_empty(description: Description) -> Detector:
    """Build the described detector; its weights are random."""
    return description.detector.build(len(description.classes))


def describe_weights(description: Description) -> str:
    """Say which weights a model has, in one line."""
    kind = "averaged weights" if description.averaged else "weights"
    ap = description.metrics.get(METRIC)
    judged = "" if ap is None else f", val/AP {ap:.4f}"
    return f"{description.source}: {kind} after step {description.step}{judged}"
