"""A budget of hours for a whole run, whatever restarts and resumes it has."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from qdet.checkpoint import TrainState
from qdet.training.observer import Observer


class TimeBudget(Observer):
    """Adds up the time of a run; rank 0's clock decides, and the others learn it in the exchange of a step.

    A launch counts from its beginning, with its restarts and the steps that were lost in them. Of an earlier
    launch, what its last checkpoint recorded counts.

    Args:
        hours: Budget of the run; None for none.
        main: Whether this is rank 0.
        launched: Unix time at which this launch of the run began; None: now.
        clock: Returns the Unix time.
    """

    def __init__(
        self,
        hours: float | None,
        *,
        main: bool,
        launched: float | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._hours, self._main, self._clock = hours, main, clock
        self._launched = clock() if launched is None else launched
        self._before = 0.0
        self.spent = False
        """Whether the budget is used up; the same on all ranks after the exchange of a step."""

    @property
    def seconds(self) -> float:
        """Time of the run so far, by this rank's clock."""
        return self._before + max(0.0, self._clock() - self._launched)

    def local(self) -> Sequence[float]:
        """Return 1 if rank 0 sees that the budget is used up."""
        over = self._hours is not None and self._main and self.seconds >= 3600 * self._hours
        return (float(over),)

    def reduced(self, totals: Sequence[float]) -> None:
        """Agree; once used up, it stays so."""
        self.spent = self.spent or totals[0] > 0

    def explain(self) -> str:
        """Say which budget is used up and what to give instead."""
        hours = self._hours or 0.0
        return f"--train.hours {hours:g} is used up; give more, such as --train.hours {2 * hours:g}"

    def state(self) -> Mapping[str, Any]:
        """Return the time so far, and of which launch it is."""
        return {"seconds": self.seconds, "seconds_before": self._before, "launched": self._launched}

    def restore(self, saved: TrainState) -> None:
        """Count on: a restart of the same launch counts from its beginning, another launch comes on top."""
        same = saved.launched == self._launched
        self._before = saved.seconds_before if same else saved.seconds
