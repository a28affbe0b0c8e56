"""The checkpoints of one run: which is taken to go on from, and which are kept."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from qdet.checkpoint.manifest import MANIFEST, Manifest, read_manifest, verify
from qdet.errors import CheckpointError, StorageError
from qdet.storage import Folder

METRIC = "val/AP"
"""What the best checkpoint is best in."""


def open_folder(where: str | Path) -> Folder:
    """Return the folder of a store, a run or a checkpoint at a path or URL.

    Raises:
        CheckpointError: Nothing installed here opens such a URL.
    """
    try:
        return Folder.open(where)
    except StorageError as error:
        raise CheckpointError(str(error)) from error


@dataclass(frozen=True, kw_only=True)
class Retention:
    """Which checkpoints stay when a new one is there."""

    last: int = 2
    """Newest ones beside the last."""
    best: int = 1
    """Those of highest AP."""
    every_steps: int = 0
    """Those of every multiple of this many steps; 0 for none."""

    def keeps(self, manifests: dict[int, Manifest]) -> set[int]:
        """Return the steps to keep of those that there are."""
        steps = sorted(manifests)
        ap = {step: float(m.metrics.get(METRIC, math.nan)) for step, m in manifests.items()}
        ranked = sorted((s for s in steps if math.isfinite(ap[s])), key=lambda s: (ap[s], s), reverse=True)
        multiples = {s for s in steps if self.every_steps and s % self.every_steps == 0}
        return set(steps[-self.last - 1 :]) | set(ranked[: self.best]) | multiples


@dataclass
class RunFolder:
    """`<store>/<run>` with its folders `step_000500`."""

    folder: Folder
    _damaged: set[int] = field(default_factory=set)

    def at(self, step: int) -> Folder:
        """Return the folder of the checkpoint after `step` steps, whether it is there or not."""
        return self.folder.child(f"step_{step:06d}")

    def steps(self) -> list[int]:
        """Return the steps that have a folder, finished or not, in order."""
        return sorted(
            int(found[1]) for name in self.folder.folders() if (found := re.fullmatch(r"step_(\d+)", name))
        )

    def newest_good(self, passed_over: Callable[[str], None]) -> Folder | None:
        """Return the newest checkpoint of which every byte is as written; None where the run has none yet.

        Args:
            passed_over: Told why a newer one was not taken.

        Raises:
            CheckpointError: Checkpoints were completed, and none of them is good any more.
        """
        for step in reversed(self.steps()):
            try:
                verify(self.at(step))
            except CheckpointError as error:
                passed_over(str(error))
                if self.at(step).size(MANIFEST) is not None:
                    self._damaged.add(step)
                continue
            return self.at(step)
        if self._damaged:
            raise CheckpointError(
                f"none of the {len(self._damaged)} checkpoints of {self.folder} is whole any more: see above."
                " Bring one back from a copy, or remove their folders to start this run over"
            )
        return None

    def tidy(self, retention: Retention) -> None:
        """Remove what `retention` does not keep, and what is older than the newest checkpoint and not one."""
        manifests: dict[int, Manifest] = {}
        for step in self.steps():
            try:
                manifests[step] = read_manifest(self.at(step))
            except CheckpointError:
                continue
        sound = {step: m for step, m in manifests.items() if step not in self._damaged}
        kept = retention.keeps(sound)
        newest = max(sound, default=0)
        for step in self.steps():
            if step not in kept and step < newest:
                self.at(step).remove_all()
