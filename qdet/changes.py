"""Which settings a resumed run may change.

A resumed run is the same run: its batches, detector and seed stay. How it is computed (workers, ZeRO stage,
readers, tracking) may change at any time without changing results; what it learns from (rates, losses,
length) may change too, but is reported, because no uninterrupted run would be like that.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qdet.config import flatten
from qdet.data.image.pipelines import RULES
from qdet.job import Job

FIXED = (
    "detector",
    "data.augment",
    "data.by_size",
    "data.pad",
    "data.reading",
    "data.samples",
    "data.tail",
    "train.seed",
    "train.batch_size",
    "train.canonical",
    "train.freeze",
)
"""Settings, or groups of them, that the checkpoint or its data order depends on."""
LEARNING = (
    "loss",
    "optim",
    "train.epochs",
    "train.steps",
    "train.precision",
)
"""Settings that may change, and change what is learned from then on."""

AUTO_PRECISION = ("train.precision", "auto")
"""A setting that becomes another once the device is known."""
_PIPELINE, _FILTER = "data.augment.pipeline", "data.augment.resize"


@dataclass(frozen=True)
class Change:
    """One setting that differs."""

    path: str
    then: Any
    now: Any

    def __str__(self) -> str:
        """Return the change as flags."""
        return f"--{self.path.replace('_', '-')} is {self.now}, it was {self.then}"


@dataclass(frozen=True)
class Changes:
    """Differences between the job of a checkpoint and the job that resumes it."""

    refused: tuple[Change, ...]
    learning: tuple[Change, ...]
    """Allowed, but reported."""


def changes(then: Mapping[str, Any], now: Job) -> Changes:
    """Compare a checkpoint's job, flat as from `qdet.config.flatten` or from JSON, with the current one.

    Settings that only one of them has belong to another version of qdet and are ignored. So is `auto`: a
    checkpoint holds what it became, and workers compare that once they know it again.
    """
    before, after = _plain(then), _plain(flatten(now))
    differing = [
        Change(path, before[path], after[path])
        for path in after
        if path in before and before[path] != after[path] and (path, after[path]) != AUTO_PRECISION
    ]
    return Changes(
        refused=tuple(c for c in differing if _in(c.path, FIXED)),
        learning=tuple(c for c in differing if _in(c.path, LEARNING)),
    )


def describe_allowed_changes() -> str:
    """Return which settings may change, for messages."""
    return (
        "What may change: how it is computed (--train.workers, --train.accumulation, --train.zero, "
        "--data.readers, --eval, --track, ...), when it ends (--train.hours, --train.early-stopping) and "
        "what it learns from (--optim, --loss, --train.epochs, --train.steps, --train.precision). What may "
        "not: " + ", ".join(f"--{p.replace('_', '-')}" for p in FIXED)
    )


def _in(path: str, groups: tuple[str, ...]) -> bool:
    return any(path == group or path.startswith(f"{group}.") for group in groups)


def _plain(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Return values as they come back from JSON: lists for tuples, text for what JSON does not have.

    The location of pre-trained weights is left out: they only mattered at the start. Pipeline and filter are
    named: jobs did not have the one before, and named the other where they now leave it to the pipeline.
    """
    kept = {path: value for path, value in flat.items() if not path.endswith("backbone.weights")}
    if _FILTER in kept:
        rule = RULES.get(str(kept.setdefault(_PIPELINE, "detr")))  # type: ignore[call-overload]
        kept[_FILTER] = kept[_FILTER] or (rule and rule.filter)
    return json.loads(json.dumps(kept, default=str))
