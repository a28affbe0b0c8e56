"""How a detector is trained with more learned queries than it keeps: Group DETR's and H-DETR's settings."""

from dataclasses import dataclass, replace
from typing import Literal

from qdet.errors import ConfigError

Kind = Literal["none", "groups", "hybrid"]


@dataclass(frozen=True, kw_only=True)
class OneToManyConfig:
    """One-to-many assignment: in training, more learned queries look for the same objects.

    Group DETR (Chen et al., ICCV 2023, https://arxiv.org/abs/2207.13085) has `groups` sets of queries, each
    of which finds every object once; the loss is the mean over them. H-DETR (Jia et al., CVPR 2023,
    https://arxiv.org/abs/2207.13080) has one more set of `queries`, of which `repeats` find each object; its
    loss, divided by as many, is added. Sets do not see each other, and evaluation has only the first.
    """

    kind: Kind = "none"
    """No further queries, Group DETR's, or H-DETR's."""
    groups: int = 11
    """Sets of queries of Group DETR, with the one that is kept."""
    queries: int = 1500
    """Further queries of H-DETR."""
    repeats: int = 6
    """How many of H-DETR's further queries should find an object."""
    weight: float = 1.0
    """Weight of the loss of H-DETR's further queries."""

    def __post_init__(self) -> None:
        """Raise ConfigError for settings that cannot train."""
        for name in ("groups", "queries", "repeats"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{flag(name)} must be at least 1, got {getattr(self, name)}")
        if self.weight < 0:
            raise ConfigError(f"{flag('weight')} must be 0 or more, got {self.weight}")

    @property
    def branches(self) -> int:
        """Sets of queries beside the one that is kept."""
        return {"none": 0, "groups": self.groups - 1, "hybrid": 1}[self.kind]

    def extra(self, own: int) -> int:
        """Return the further queries of a detector that keeps `own`."""
        return self.branches * (self.queries if self.kind == "hybrid" else own)

    def demo(self) -> "OneToManyConfig":
        """Return settings small enough to train on two CPU cores."""
        return replace(self, groups=min(self.groups, 3), queries=min(self.queries, 60), repeats=2)


NO_BRANCHES = OneToManyConfig()
"""One set of queries alone."""


def flag(name: str) -> str:
    """Return the flag of a setting."""
    return f"--detector.one-to-many.{name}"
