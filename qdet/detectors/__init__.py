"""Detectors, one file per paper. The union below is the only list of them."""

from qdet.detectors.adamixer import AdaMixer, AdaMixerConfig
from qdet.detectors.detector import Detector
from qdet.detectors.detr import DETR, DETRConfig

DetectorConfig = AdaMixerConfig | DETRConfig
"""Every detector's settings; `typing.get_args` of the union is what the contract tests run over."""

__all__ = ["DETR", "AdaMixer", "AdaMixerConfig", "DETRConfig", "Detector", "DetectorConfig"]
