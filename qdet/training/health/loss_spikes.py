"""Loss spikes: losses far above those just before, in robust standard deviations."""

from collections import deque
from collections.abc import Iterable

import numpy as np

HISTORY = 100
"""Steps that a loss is compared with."""
ENOUGH = 20
"""Steps before the first comparison."""
FAR = 6.0
"""Robust standard deviations above the median that make a spike."""


class LossSpikes:
    """The last losses of a training, of which `losses` are known from before."""

    def __init__(self, losses: Iterable[float] = ()) -> None:
        self._losses: deque[float] = deque(losses, maxlen=HISTORY)

    @property
    def last(self) -> tuple[float, ...]:
        """Up to 100 losses, the latest last."""
        return tuple(self._losses)

    def add(self, loss: float) -> float | None:
        """Count a finite `loss`; return how many standard deviations it is too high where it is a spike.

        The standard deviation is estimated from the median absolute deviation, which spikes do not move. It
        counts as at least a hundredth of the median, lest the last digits of a flat curve become spikes.
        """
        before = np.array(self._losses)
        self._losses.append(loss)
        if len(before) < ENOUGH:
            return None
        median = np.median(before)
        deviation = max(1.4826 * np.median(np.abs(before - median)), 0.01 * abs(median), 1e-12)
        distance = float((loss - median) / deviation)
        return distance if distance >= FAR else None
