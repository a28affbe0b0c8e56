"""How often workers may fail: what counts are failures without a new checkpoint between them."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from qdet.checkpoint import RunFolder, open_folder
from qdet.errors import QdetError
from qdet.training.reporting import Run

SAME = 5.0
"""Seconds between reports of one failure: Ray Train repeats it at every poll while a node is drained."""


@dataclass
class FailureBudget:
    """Counts the failures of a run; progress refills it, so that a long run is not ended by rare ones."""

    most: int
    """Failures in a row that are allowed."""
    newest: Callable[[], int]
    """Returns the step of the newest checkpoint."""
    clock: Callable[[], float] = time.monotonic
    count: int = 0
    """Failures since there was a new checkpoint."""
    _step: int = 0
    _last: float = field(default=float("-inf"))

    def spend(self) -> bool:
        """Count a failure that is reported now; return whether the run may continue."""
        now, same = self.clock(), self.clock() - self._last < SAME
        self._last = now
        if same:
            return self.count <= self.most
        if (step := self.newest()) > self._step:
            self._step, self.count = step, 0
        self.count += 1
        return self.count <= self.most


def newest_step(run: Run) -> int:
    """Return the step of a run's newest complete checkpoint; 0 without one, or where its store is away."""
    try:
        return max(RunFolder(open_folder(run.store).child(run.name)).manifests(), default=0)
    except (QdetError, OSError):
        return 0
