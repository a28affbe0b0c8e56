"""Backbones: images to feature maps of known channels and strides."""

from qdet.backbones.swin import SwinConfig

BackboneConfig = SwinConfig

__all__ = ["BackboneConfig", "SwinConfig"]
