"""The checkpoints of one run: which to resume from, and which to keep."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from qdet.checkpoint.manifest import MANIFEST, Manifest, read_manifest, verify
from qdet.errors import CheckpointError, StorageError
from qdet.storage import Folder

METRIC = "val/AP"
"""Metric of the best checkpoint."""


def open_folder(where: str | Path) -> Folder:
    """Return the folder of a store, a run or a checkpoint at a path or URL.

    Raises:
        CheckpointError: No installed package opens such a URL.
    """
    try:
        return Folder.open(where)
    except StorageError as error:
        raise CheckpointError(str(error)) from error


def best_of(manifests: Mapping[int, Manifest]) -> Manifest | None:
    """Return the checkpoint with the highest AP, or the last where none has one; None without any."""
    return manifests[best_first(manifests)[0]] if manifests else None


def best_first(manifests: Mapping[int, Manifest]) -> list[int]:
    """Return the steps of checkpoints, the highest AP first and later ones first; last those without AP."""
    ap = {step: float(m.metrics.get(METRIC, math.nan)) for step, m in manifests.items()}
    return sorted(ap, key=lambda step: (-math.inf if math.isnan(ap[step]) else ap[step], step), reverse=True)


@dataclass(frozen=True, kw_only=True)
class Retention:
    """Which checkpoints to keep after writing a new one."""

    last: int = 2
    """Number of newest ones besides the last."""
    best: int = 1
    """Number of those with the highest AP."""
    every_steps: int = 0
    """Keep multiples of this many steps; 0 keeps none."""

    def keeps(self, manifests: dict[int, Manifest]) -> set[int]:
        """Return the steps to keep."""
        steps = sorted(manifests)
        ap = {step: float(m.metrics.get(METRIC, math.nan)) for step, m in manifests.items()}
        ranked = [step for step in best_first(manifests) if math.isfinite(ap[step])]
        multiples = {s for s in steps if self.every_steps and s % self.every_steps == 0}
        return set(steps[-self.last - 1 :]) | set(ranked[: self.best]) | multiples


@dataclass
class RunFolder:
    """`<store>/<run>` with its folders `step_000500`."""

    folder: Folder
    _damaged: set[int] = field(default_factory=set)

    def at(self, step: int) -> Folder:
        """Return the folder of the checkpoint after `step` steps, existing or not."""
        return self.folder.child(f"step_{step:06d}")

    def steps(self) -> list[int]:
        """Return the steps that have a folder, finished or not, in order."""
        return sorted(
            int(found[1]) for name in self.folder.folders() if (found := re.fullmatch(r"step_(\d+)", name))
        )

    def manifests(self, passed_over: Callable[[str], None] = lambda why: None) -> dict[int, Manifest]:
        """Return what the finished checkpoints say of themselves, by step; their bytes are not read.

        Args:
            passed_over: Called with the reason for each that is left out.

        Raises:
            CheckpointError: The store is away, which says nothing of its checkpoints.
        """
        found: dict[int, Manifest] = {}
        for step in self.steps():
            try:
                found[step] = read_manifest(self.at(step))
            except CheckpointError as error:
                if error.transient:  # away is not damaged: it must not be tidied away
                    raise
                passed_over(str(error))
        return found

    def newest_good(self, passed_over: Callable[[str], None]) -> Folder | None:
        """Return the newest intact checkpoint; None if the run has none yet.

        Args:
            passed_over: Called with the reason for each newer one that is skipped.

        Raises:
            CheckpointError: There were complete checkpoints, but none is intact; or the store is away.
        """
        for step in reversed(self.steps()):
            try:
                verify(self.at(step))
            except CheckpointError as error:
                if error.transient:
                    raise
                passed_over(str(error))
                if self.at(step).size(MANIFEST) is not None:
                    self._damaged.add(step)
                continue
            return self.at(step)
        if self._damaged:
            raise CheckpointError(
                f"none of the {len(self._damaged)} checkpoints of {self.folder} is intact: see above."
                " Restore one from a backup, or remove their folders to start this run over"
            )
        return None

    def tidy(self, retention: Retention) -> None:
        """Remove what `retention` does not keep, and incomplete ones older than the newest."""
        sound = {step: m for step, m in self.manifests().items() if step not in self._damaged}
        kept = retention.keeps(sound)
        newest = max(sound, default=0)
        for step in self.steps():
            if step not in kept and step < newest:
                self.at(step).remove_all()
