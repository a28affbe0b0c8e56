"""Detectors, one file per paper. The union below is the only list of them."""

from qdet.data.denoising.config import DINO_DENOISING, DN_DETR_DENOISING, DenoisingConfig
from qdet.detectors.adamixer.model import AdaMixer, AdaMixerConfig
from qdet.detectors.anchor_detr.model import AnchorDETR, AnchorDETRConfig
from qdet.detectors.conditional_detr import ConditionalDETR, ConditionalDETRConfig
from qdet.detectors.dab_detr.model import DABDETR, DABDETRConfig
from qdet.detectors.deformable_detr import DeformableDETR, DeformableDETRConfig
from qdet.detectors.detector import Detector
from qdet.detectors.detr import DETR, DETRConfig
from qdet.detectors.dino.model import DINO, DINOConfig
from qdet.detectors.dynamic_detr.model import DynamicDETR, DynamicDETRConfig
from qdet.detectors.efficient_detr import EfficientDETR, EfficientDETRConfig
from qdet.detectors.smca.conv import ConvSMCA, ConvSMCAConfig
from qdet.detectors.smca.model import SMCA, SMCAConfig
from qdet.detectors.smca.multi_scale import MultiScaleSMCA, MultiScaleSMCAConfig
from qdet.detectors.sparse_rcnn import SparseRCNN, SparseRCNNConfig
from qdet.layers.one_to_many.config import OneToManyConfig

DetectorConfig = (
    AdaMixerConfig
    | AnchorDETRConfig
    | ConditionalDETRConfig
    | ConvSMCAConfig
    | DABDETRConfig
    | DeformableDETRConfig
    | DETRConfig
    | DINOConfig
    | DynamicDETRConfig
    | EfficientDETRConfig
    | MultiScaleSMCAConfig
    | SMCAConfig
    | SparseRCNNConfig
)
"""Every detector's settings; `typing.get_args` of the union is what the contract tests run over."""


def denoising_of(config: DetectorConfig) -> DenoisingConfig:
    """Return how a detector is trained with extra queries; most have none."""
    return getattr(config, "denoising", DenoisingConfig())


__all__ = [
    "DABDETR",
    "DETR",
    "DINO",
    "DINO_DENOISING",
    "DN_DETR_DENOISING",
    "SMCA",
    "AdaMixer",
    "AdaMixerConfig",
    "AnchorDETR",
    "AnchorDETRConfig",
    "ConditionalDETR",
    "ConditionalDETRConfig",
    "ConvSMCA",
    "ConvSMCAConfig",
    "DABDETRConfig",
    "DETRConfig",
    "DINOConfig",
    "DeformableDETR",
    "DeformableDETRConfig",
    "DenoisingConfig",
    "Detector",
    "DetectorConfig",
    "DynamicDETR",
    "DynamicDETRConfig",
    "EfficientDETR",
    "EfficientDETRConfig",
    "MultiScaleSMCA",
    "MultiScaleSMCAConfig",
    "OneToManyConfig",
    "SMCAConfig",
    "SparseRCNN",
    "SparseRCNNConfig",
    "denoising_of",
]
