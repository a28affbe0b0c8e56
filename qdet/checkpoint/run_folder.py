"""The checkpoints of one run: which to resume from, and which to keep."""

import math
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from qdet.checkpoint.manifest import MANIFEST, Manifest, read_manifest, verify
from qdet.checkpoint.term import written_after
from qdet.errors import CheckpointError, NewerCheckpointError, StorageError, UnreadableCheckpointError
from qdet.storage import Folder
from qdet.storage.lease import Fence, Terms

PAUSES = (2.0, 5.0, 10.0, 20.0)
"""Seconds between looks at a checkpoint that its store does not give."""
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

    def most(self, saved: Collection[int] | None) -> int:
        """Return how many checkpoints there are at most at a time, the one being written among them.

        Args:
            saved: Steps after which one is written, in the whole training; None where they are not known.
        """
        multiples = sum(s % self.every_steps == 0 for s in saved or ()) if self.every_steps else 0
        most = self.last + 1 + self.best + multiples + 1
        return most if saved is None else min(most, len(saved))


@dataclass
class RunFolder:
    """`<store>/<run>` with its folders `step_000500`."""

    folder: Folder
    fence: Fence | None = None
    """Term of the lease under which this process writes here; None where it only reads."""
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
        for step, seen in self._look():
            if isinstance(seen, CheckpointError):
                passed_over(str(seen))
            else:
                found[step] = seen
        return found

    def newest_good(self, passed_over: Callable[[str], None]) -> Folder | None:
        """Return the newest intact checkpoint; None if the run has none yet.

        Args:
            passed_over: Called with the reason for each newer one that is skipped.

        Raises:
            UnreadableCheckpointError: The store does not give one that may be intact, or is away.
            NewerCheckpointError: A later version of qdet has trained this run.
            CheckpointError: There were complete checkpoints, but none is intact any more.
        """
        for step in reversed(self.steps()):
            try:
                manifest = _insist(lambda step=step: verify(self.at(step)), passed_over)
            except (UnreadableCheckpointError, NewerCheckpointError):
                raise
            except CheckpointError as error:
                if error.transient:
                    raise
                passed_over(str(error))
                if self.at(step).size(MANIFEST) is not None:
                    self._damaged.add(step)
                continue
            if why := written_after(manifest, self._terms):
                passed_over(f"{self.at(step)} {why}")
                continue
            return self.at(step)
        if self._damaged:
            raise CheckpointError(
                f"none of the {len(self._damaged)} checkpoints of {self.folder} is intact: see above."
                " Restore one from a backup, or remove their folders to start this run over"
            )
        return None

    def begin(self, step: int) -> None:
        """Record that the holder of the lease resumes from `step`: what others write after it is not used.

        Raises:
            LeaseError: Another process has taken over.
        """
        if self.fence is not None:
            self.fence.check()
            self._terms.start(self.fence.number, step)

    def tidy(self, retention: Retention) -> None:
        """Remove what `retention` does not keep, and damaged or incomplete ones older than the newest.

        Nothing is removed for being unreadable: it may be intact, or a later version's.

        Raises:
            LeaseError: Another process has taken over.
            UnreadableCheckpointError: The store does not say what it has; nothing is removed.
        """
        sound, unknown = self._sort()
        kept = retention.keeps(sound)
        newest = max(sound, default=0)
        for step in self.steps():
            if step not in kept | unknown and step < newest:
                if self.fence is not None:
                    self.fence.check()
                self.at(step).remove_all()

    @property
    def _terms(self) -> Terms:
        return Terms(self.folder)

    def _look(self) -> Iterator[tuple[int, Manifest | CheckpointError]]:
        """Yield what each folder's manifest says, or why it does not count."""
        for step in self.steps():
            try:
                manifest = read_manifest(self.at(step))
                why = written_after(manifest, self._terms)
                yield step, CheckpointError(f"{self.at(step)} {why}") if why else manifest
            except CheckpointError as error:
                yield step, error

    def _sort(self) -> tuple[dict[int, Manifest], set[int]]:
        """Return the checkpoints that count, and the steps of folders of which that is not known."""
        sound: dict[int, Manifest] = {}
        unknown: set[int] = set()
        for step, seen in self._look():
            if isinstance(seen, UnreadableCheckpointError) or (
                isinstance(seen, CheckpointError) and seen.transient
            ):
                raise seen
            if isinstance(seen, NewerCheckpointError):
                unknown.add(step)
            elif isinstance(seen, CheckpointError):
                known = step in self._damaged or self.at(step).size(MANIFEST) is None
                unknown |= set() if known else {step}
            elif step not in self._damaged:
                sound[step] = seen
        return sound, unknown


def _insist(look: Callable[[], Manifest], say: Callable[[str], None]) -> Manifest:
    """Look again while a store does not answer; raise what the last look does."""
    for pause in PAUSES:
        try:
            return look()
        except UnreadableCheckpointError as error:
            say(f"{error}; looking again in {pause:g} s")
            time.sleep(pause)
    return look()
