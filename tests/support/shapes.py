"""Detectors without numbers, built once for all tests of a file that only look at their parameters."""

from functools import cache

import torch

from qdet.detectors import Detector, DetectorConfig


@cache
def shapes_of(config: DetectorConfig, classes: int) -> Detector:
    """Return a detector on the meta device, which no test may change."""
    with torch.device("meta"):
        return config.build(classes)
