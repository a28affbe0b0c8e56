"""How a detector is trained to remove noise from objects: DN-DETR's and DINO's settings, and their rules."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from qdet.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class DenoisingConfig:
    """Denoising: extra queries in training start from objects with noise, and should find these objects.

    DN-DETR (Li et al., CVPR 2022, https://arxiv.org/abs/2203.01305) adds every object once to each group.
    DINO (Zhang et al., ICLR 2023, https://arxiv.org/abs/2203.03605) adds it twice: near its place, and
    further away, where the query should find nothing.
    """

    kind: Literal["none", "plain", "contrastive"] = "none"
    """No extra queries, DN-DETR's, or DINO's pairs of positive and negative ones."""
    groups: int | None = None
    """Groups of an image's noised objects; by default as many as `queries` allows, at least 1."""
    queries: int = 200
    """Extra queries per image that groups may fill, where their number is not given: twice DINO's
    `dn_number`."""
    label_noise: float = 0.25
    """Probability that a query starts from a class drawn at random, which may be its own."""
    box_noise: float = 1.0
    """Largest shift of a positive's coordinates, relative to half the box; negatives get one to two times
    it."""
    grouping: Literal["image", "batch"] = "image"
    """Groups for each image alone, without effect of the others; or one number for all images of a pass, by
    the fullest, with visible padding, as the authors train: this depends on how a batch is split."""
    max_queries: int = 1000
    """Most extra queries of an image; a more crowded one gets fewer groups, then some of its objects none."""

    def __post_init__(self) -> None:
        """Raise ConfigError for settings that cannot train."""
        for name in ("groups", "queries", "max_queries"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{_flag(name)} must be at least 1, got {value}")
        if self.max_queries < self.copies:
            raise ConfigError(
                f"{_flag('max_queries')} must be at least {self.copies}, the queries of one object"
            )
        if not 0 <= self.label_noise <= 1:
            raise ConfigError(f"{_flag('label_noise')} must be between 0 and 1, got {self.label_noise}")
        if self.box_noise < 0:
            raise ConfigError(f"{_flag('box_noise')} must be 0 or more, got {self.box_noise}")

    @property
    def copies(self) -> int:
        """Queries of an object in each group: with a negative there are two."""
        return 2 if self.kind == "contrastive" else 1

    def kept(self, objects: int) -> int:
        """Return how many of an image's objects are noised."""
        return 0 if self.kind == "none" else min(objects, self.max_queries // self.copies)

    def groups_of(self, kept: int) -> int:
        """Return the number of groups of an image with that many noised objects, at least 1."""
        if kept == 0:
            return 1
        size = self.copies * kept
        wanted = self.queries // size if self.groups is None else self.groups
        return max(1, min(wanted, self.max_queries // size))

    def shared_groups(self, kept: Sequence[int]) -> int:
        """Return the one number of groups of a pass: that of its fullest image."""
        return self.groups_of(max(kept, default=0))


DN_DETR_DENOISING = DenoisingConfig(kind="plain", groups=5, label_noise=0.2, box_noise=0.4)
"""DN-DETR's code: five groups."""

DINO_DENOISING = DenoisingConfig(kind="contrastive")
"""DINO's scripts, which override the 0.4 of its configuration file."""


def _flag(name: str) -> str:
    return f"--detector.denoising.{name.replace('_', '-')}"
