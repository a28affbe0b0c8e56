"""Backbones: images to feature maps of known channels and strides.

A configuration's `build()` makes a `Backbone` with fresh weights, and `load_pretrained` loads what it names.
"""

from qdet.backbones.backbone import Backbone
from qdet.backbones.hugging_face import HuggingFaceConfig
from qdet.backbones.resnet import ResNetConfig
from qdet.backbones.resnext_dcn import ResNeXtDCNConfig
from qdet.backbones.swin.model import SwinConfig
from qdet.backbones.weights import load_pretrained

BackboneConfig = HuggingFaceConfig | ResNetConfig | ResNeXtDCNConfig | SwinConfig

__all__ = [
    "Backbone",
    "BackboneConfig",
    "HuggingFaceConfig",
    "ResNeXtDCNConfig",
    "ResNetConfig",
    "SwinConfig",
    "load_pretrained",
]
