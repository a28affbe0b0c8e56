"""Loss spikes: losses many robust standard deviations above the recent ones."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from qdet.checkpoint import TrainState
from qdet.training.distributed import World
from qdet.training.observer import Observer

HISTORY = 100
"""Steps that a loss is compared with."""
ENOUGH = 20
"""Steps before the first comparison."""
FAR = 6.0
"""Robust standard deviations above the median that make a spike."""


class LossSpikes:
    """The last losses of a training; `losses` are those of before it was resumed."""

    def __init__(self, losses: Iterable[float] = ()) -> None:
        self._losses: deque[float] = deque(losses, maxlen=HISTORY)

    @property
    def last(self) -> tuple[float, ...]:
        """Up to 100 losses, the latest last."""
        return tuple(self._losses)

    def add(self, loss: float) -> float | None:
        """Add a finite `loss`; if it is a spike, return by how many standard deviations, else None.

        The standard deviation is estimated from the median absolute deviation, which spikes do not move, and
        is at least a hundredth of the median, so that a flat curve has no spikes in its last digits.
        """
        before = np.array(self._losses)
        self._losses.append(loss)
        if len(before) < ENOUGH:
            return None
        median = np.median(before)
        deviation = max(1.4826 * np.median(np.abs(before - median)), 0.01 * abs(median), 1e-12)
        distance = float((loss - median) / deviation)
        return distance if distance >= FAR else None


class MeanLoss(Observer):
    """The loss of the previous step, averaged over ranks: its spikes are reported and counted.

    Args:
        world: The ranks.
        micro_batches: Those of a global batch if their number is fixed: the mean is of their losses, in one
            order, and a rank contributes zero for those of others. 0 if each rank has one loss.
    """

    def __init__(self, world: World, micro_batches: int = 0) -> None:
        self._world, self._history = world, LossSpikes()
        self._values, self._shares = max(micro_batches, 1), micro_batches or world.size
        self._last: tuple[int, Sequence[float]] | None = None
        self._spikes = 0
        self.listener: Callable[[int, float], None] = lambda step, loss: None
        """Called on every rank with each step and its mean loss, NaN of a skipped one; perhaps twice."""

    def observe(self, step: int, losses: Sequence[float]) -> None:
        """Take this rank's loss of a step, or of all micro-batches; NaN if the step was skipped."""
        self._last = step, losses

    def local(self) -> Sequence[float]:
        """Return this rank's loss of the previous step; NaN in the first."""
        return (math.nan,) * self._values if self._last is None else self._last[1]

    def reduced(self, totals: Sequence[float]) -> None:
        """Compare the mean with those of the steps before; rank 0 prints a spike."""
        loss = self._mean(totals)
        if self._last is None:
            return
        step = self._last[0]
        self.listener(step, loss)
        if not math.isfinite(loss):
            return
        distance = self._history.add(loss)
        if distance is None:
            return
        self._spikes += 1
        if self._world.main:
            print(
                f"the loss of step {step} is {loss:.4g}: {distance:.1f} robust standard deviations above "
                f"those of the {HISTORY} steps before",
                flush=True,
            )

    def state(self) -> Mapping[str, Any]:
        """Return the last losses, including that of the step just made, not exchanged yet. Collective."""
        loss = math.nan if self._last is None else self._mean(self._world.sum(*self._last[1]))
        if self._last is not None:
            self.listener(self._last[0], loss)
        losses = self._history.last
        return {"losses": (*losses, loss)[-HISTORY:] if math.isfinite(loss) else losses}

    def restore(self, saved: TrainState) -> None:
        """Compare the next losses with those before the checkpoint."""
        self._history = LossSpikes(saved.losses)

    def metrics(self) -> dict[str, float]:
        """Return the spikes since the last call."""
        counted, self._spikes = self._spikes, 0
        return {"train/spikes": float(counted)}

    def _mean(self, totals: Sequence[float]) -> float:
        return math.fsum(totals) / self._shares if all(map(math.isfinite, totals)) else math.nan
