"""Where a run stands, and what must stay the same for the rest of it to mean anything."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

RANDOM = "every step seeds torch anew with (seed * 1000003 + step) * 1009 + rank"
"""How random numbers follow from what a checkpoint holds, so that it needs no state of a generator."""


@dataclass(frozen=True, kw_only=True)
class TrainState:
    """What training needs to know besides tensors."""

    step: int
    """Steps done; data order, augmentation, learning rate and random numbers follow from it."""
    updates: int
    """Steps that AdamW made: those whose gradients were finite."""
    ema_updates: int
    skipped: tuple[int, ...] = ()
    """The other steps, in order: their loss or gradient was not finite."""
    losses: tuple[float, ...] = ()
    """The last losses that were finite, which the next are compared with."""
    unreadable: Mapping[int, str] = field(default_factory=dict)
    """Why images that other images stood in for could not be read, by their ids."""
    seed: int
    batch_size: int
    data_digest: str
    """Digest of the training shards."""
    plan_version: int = 1
    """Version of how order and augmentation follow from seed and step; 1 before it was written down."""
    categories: dict[str, Any]
    """Class names and original ids, in order of label."""
    random: str = RANDOM
    git_commit: str | None = None
    """Of the qdet that wrote it, where that was a working copy."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Of the libraries that computed it."""

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "TrainState":
        """Read it back from JSON, which has no tuples, and only texts as keys."""
        return cls(
            **{
                **content,
                "skipped": tuple(content["skipped"]),
                "losses": tuple(content.get("losses", ())),
                "unreadable": {int(i): reason for i, reason in content.get("unreadable", {}).items()},
            }
        )
