"""Detectors, one file per paper. The union below is the only list of them."""

from qdet.detectors.adamixer import AdaMixer, AdaMixerConfig
from qdet.detectors.conditional_detr import ConditionalDETR, ConditionalDETRConfig
from qdet.detectors.deformable_detr import DeformableDETR, DeformableDETRConfig
from qdet.detectors.detector import Detector
from qdet.detectors.detr import DETR, DETRConfig

DetectorConfig = AdaMixerConfig | ConditionalDETRConfig | DeformableDETRConfig | DETRConfig
"""Every detector's settings; `typing.get_args` of the union is what the contract tests run over."""

__all__ = [
    "DETR",
    "AdaMixer",
    "AdaMixerConfig",
    "ConditionalDETR",
    "ConditionalDETRConfig",
    "DETRConfig",
    "DeformableDETR",
    "DeformableDETRConfig",
    "Detector",
    "DetectorConfig",
]
