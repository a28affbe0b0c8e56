"""Settings shared by the detectors of the DETR family."""

from dataclasses import dataclass, field
from typing import Any

from qdet.backbones import BackboneConfig, ResNetConfig
from qdet.detectors.detector import check_at_least, check_split
from qdet.errors import ConfigError
from qdet.layers.one_to_many.config import OneToManyConfig

BACKBONE_LEVELS = 3
"""Backbone maps that multi-level detectors read, C3 to C5; further levels are convolved from the last."""


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """A backbone and the sizes of a transformer behind it; the defaults are DETR's."""

    backbone: BackboneConfig = field(default_factory=ResNetConfig)
    width: int = 256
    """Features of tokens and queries."""
    heads: int = 8
    """Attention heads."""
    decoder_layers: int = 6
    """Decoder layers; each predicts."""
    ffn: int = 2048
    """Hidden features of the feed-forward blocks."""
    dropout: float = 0.1
    """Dropout rate of attention weights, hidden features and updates."""
    one_to_many: OneToManyConfig = field(default_factory=OneToManyConfig)
    """More learned queries in training, which look for the same objects."""

    def __post_init__(self) -> None:
        """Raise ConfigError for settings that cannot be built."""
        check_at_least(self, 1, "heads", "decoder_layers", "ffn")
        check_split(self, "width", "heads")
        check_split(self, "width", 4, "sine and cosine of two coordinates")

    @property
    def layer_sizes(self) -> dict[str, Any]:
        """Heads, feed-forward width and dropout, as the layers of encoders and decoders take them."""
        return {"heads": self.heads, "ffn": self.ffn, "dropout": self.dropout}

    def demo_sizes(self) -> dict[str, Any]:
        """Return the settings of a detector small enough to learn 128-pixel images on two CPU cores."""
        return {
            "backbone": self.backbone.demo(),
            "width": 64,
            "heads": 4,
            "decoder_layers": min(self.decoder_layers, 3),
            "ffn": 256,
            "dropout": 0.0,
            "one_to_many": self.one_to_many.demo(),
        }


def check_tokens_allow(one_to_many: OneToManyConfig, reason: str) -> None:
    """Raise `ConfigError` if queries that start from an image's tokens cannot have such branches."""
    if one_to_many.kind == "groups":
        raise ConfigError(
            f"--detector.one-to-many.kind groups is for learned queries; with {reason}, whose queries are "
            "tokens of the image, give hybrid or none"
        )


@dataclass(frozen=True, kw_only=True)
class DeformableConfig(TransformerConfig):
    """A transformer with deformable attention on several levels; the defaults are Deformable DETR's."""

    ffn: int = 1024
    levels: int = 4
    """Feature levels: 1 is the backbone's last map alone, 3 its last three, more are convolved from them."""
    encoder_layers: int = 6
    """Layers of deformable attention between tokens."""
    encoder_points: int = 4
    """Sampling points of a token per head and level."""
    decoder_points: int = 4
    """Sampling points of a query per head and level."""
    detections: int = 100
    """Detections per image: the best pairs of query and class."""

    def __post_init__(self) -> None:
        """Raise ConfigError for settings that cannot be built."""
        super().__post_init__()
        check_at_least(self, 1, "levels", "encoder_points", "decoder_points", "detections")
        check_at_least(self, 0, "encoder_layers")
        check_split(self, "width", 32, "the groups of its normalisation")

    @property
    def backbone_levels(self) -> int:
        """Number of the backbone's last maps that are read."""
        return min(self.levels, BACKBONE_LEVELS)

    @property
    def maps_read(self) -> slice:
        """The backbone's maps that are read."""
        return slice(-self.backbone_levels, None)

    @property
    def layer_sizes(self) -> dict[str, Any]:
        """Heads, levels, feed-forward width and dropout, as deformable encoders and decoders take them."""
        return {**super().layer_sizes, "levels": self.levels}
