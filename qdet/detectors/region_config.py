"""Settings shared by the detectors whose queries read regions."""

from dataclasses import dataclass, field
from typing import Any

from qdet.backbones import BackboneConfig, ResNetConfig
from qdet.detectors.detector import check_at_least, check_split
from qdet.layers.queries import Start
from qdet.layers.regions.roi_align import CANONICAL_SIZE


@dataclass(frozen=True, kw_only=True)
class RegionConfig:
    """A backbone and the sizes of a region decoder behind it; the defaults are Sparse R-CNN's."""

    backbone: BackboneConfig = field(default_factory=ResNetConfig)
    queries: int = 100
    """Queries per image (Sparse R-CNN's proposals); its larger models use 300."""
    width: int = 256
    """Features of a query and channels of the feature pyramid."""
    heads: int = 8
    """Heads of the attention between queries."""
    ffn: int = 2048
    """Hidden features of the feed-forward blocks."""
    dropout: float = 0.0
    """Dropout rate of attention weights, hidden features and updates."""
    start: Start = "image"
    """Initial boxes: the whole image, as in the paper, or a grid over it for short training."""
    roi_size: int = 7
    """Cells along each side of the region that a query reads."""
    canonical_size: int = CANONICAL_SIZE
    """Size in pixels of a box that is read from the map of stride 16; smaller ones read finer maps."""

    def __post_init__(self) -> None:
        """Raise ConfigError for settings that cannot be built."""
        check_at_least(self, 1, "queries", "heads", "ffn", "roi_size", "canonical_size")
        check_split(self, "width", "heads")

    def demo_sizes(self) -> dict[str, Any]:
        """Return the settings of a detector small enough to learn 128-pixel images on two CPU cores."""
        return {
            "backbone": self.backbone.demo(),
            "queries": 30,
            "width": 64,
            "heads": 4,
            "ffn": 256,
            "start": "grid",
            "roi_size": 5,
            "canonical_size": CANONICAL_SIZE * 128 // 800,
        }

    def stage_sizes(self) -> dict[str, Any]:
        """Return those of these settings that `RegionStage` takes."""
        return {name: getattr(self, name) for name in ("heads", "ffn", "dropout", "roi_size")}
