"""Progress of a run, and what must stay the same when it resumes."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import msgspec

RANDOM = "every step seeds torch anew with (seed * 1000003 + step) * 1009 + rank"
"""How random numbers follow from a checkpoint's other fields, so that it stores no generator state."""


@dataclass(frozen=True, kw_only=True)
class TrainState:
    """What training needs besides tensors."""

    step: int
    """Steps done; data order, augmentation, learning rate and random numbers follow from it."""
    updates: int
    """Optimizer steps: those with finite gradients."""
    ema_updates: int
    skipped: tuple[int, ...] = ()
    """The skipped steps, in order: their loss or gradient was not finite."""
    losses: tuple[float, ...] = ()
    """The latest finite losses, for the detection of spikes."""
    unreadable: Mapping[int, str] = field(default_factory=dict)
    """Reasons why images could not be read and were substituted, by image id."""
    best_ap: float | None = None
    """Best finite val/AP of the run's evaluations, for early stopping."""
    best_step: int = 0
    """Steps done when it was measured."""
    stale_evaluations: int = 0
    """Evaluations since then."""
    seconds: float = 0.0
    """Time of the run so far, for its budget of hours."""
    seconds_before: float = 0.0
    """That of the launches before the one that wrote this."""
    launched: float = 0.0
    """Unix time at which that launch began."""
    seed: int
    batch_size: int
    data_digest: str
    """Digest of the training shards."""
    plan_version: int = 1
    """Version of how order and augmentation follow from seed and step; 1 if not recorded."""
    categories: dict[str, Any]
    """Class names and original ids, in label order."""
    random: str = RANDOM
    git_commit: str | None = None
    """Commit of the qdet that wrote it, if that was a working copy."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Versions of the libraries that computed it."""

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "TrainState":
        """Read it from JSON, which has no tuples, and only strings as keys.

        Raises:
            ValueError: A field is missing, unknown or of another type.
        """
        if unknown := cls.unknown_fields(content):
            raise ValueError(f"it has {unknown[0][:80]!r}, which this version does not know")
        return msgspec.convert(content, cls, strict=False, str_keys=True)

    @classmethod
    def unknown_fields(cls, content: Mapping[str, Any]) -> list[str]:
        """Return the names in JSON that this version does not know, sorted."""
        return sorted(content.keys() - {field.name for field in fields(cls)})
