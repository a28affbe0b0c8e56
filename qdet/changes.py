"""What a job may change when it goes on with a run, and what it may not.

A run that goes on is the same run: its batches, its detector and its seed stay. How it is computed (workers,
ZeRO stage, readers, where it logs) may change at any time and changes no number that matters; what it learns
from (rates, losses, length) may change too, but is then said, because no undisturbed run is like that.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qdet.config import flatten
from qdet.job import Job

FIXED = (
    "detector",
    "data.augment",
    "data.by_size",
    "data.reading",
    "data.samples",
    "data.tail",
    "train.seed",
    "train.batch_size",
)
"""Settings, or groups of them, that the checkpoint or the order of its data rests on."""
LEARNING = (
    "loss",
    "optim",
    "train.epochs",
    "train.steps",
    "train.precision",
)
"""Settings that may change, and change what is learned from then on."""


@dataclass(frozen=True)
class Change:
    """One setting that differs."""

    path: str
    then: Any
    now: Any

    def __str__(self) -> str:
        """Say it in the words of the command line."""
        return f"--{self.path.replace('_', '-')} is {self.now}, it was {self.then}"


@dataclass(frozen=True)
class Changes:
    """What differs between the job of a checkpoint and the one that goes on with it."""

    refused: tuple[Change, ...]
    learning: tuple[Change, ...]
    """Allowed, and worth telling."""


def changes(then: Mapping[str, Any], now: Job) -> Changes:
    """Compare a job, flat as `qdet.config.flatten` makes it (or read back from JSON), with the one of now.

    Settings that only one of them knows are of another version of qdet and do not count.
    """
    before, after = _plain(then), _plain(flatten(now))
    differing = [
        Change(path, before[path], after[path])
        for path in after
        if path in before and before[path] != after[path]
    ]
    return Changes(
        refused=tuple(c for c in differing if _in(c.path, FIXED)),
        learning=tuple(c for c in differing if _in(c.path, LEARNING)),
    )


def describe_allowed_changes() -> str:
    """Say which settings may change, for messages."""
    return (
        "What may change: how it is computed (--train.workers, --train.accumulation, --train.zero, "
        "--data.readers, --eval, --track, ...) and what it learns from (--optim, --loss, --train.epochs, "
        "--train.steps, --train.precision). What may not: "
        + ", ".join(f"--{p.replace('_', '-')}" for p in FIXED)
    )


def _in(path: str, groups: tuple[str, ...]) -> bool:
    return any(path == group or path.startswith(f"{group}.") for group in groups)


def _plain(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Values as JSON brings them back: lists for tuples, text for what JSON does not have.

    Where pre-trained weights lie is not part of what a run is: they were only its start.
    """
    kept = {path: value for path, value in flat.items() if not path.endswith("backbone.weights")}
    return json.loads(json.dumps(kept, default=str))
