"""Detectors, one file per paper. The union below is the only list of them."""

from qdet.detectors.adamixer import AdaMixer, AdaMixerConfig
from qdet.detectors.detector import Detector

DetectorConfig = AdaMixerConfig
"""Every detector's settings; `typing.get_args` of the union is what the contract tests run over."""

__all__ = ["AdaMixer", "AdaMixerConfig", "Detector", "DetectorConfig"]
