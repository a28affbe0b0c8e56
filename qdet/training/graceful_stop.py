"""Leaving in good order: who is asked to stop finishes its step, and takes a checkpoint along.

One worker may be told and the others not, or later. So every step's first exchange also carries whether
anybody was, and all of them leave after the same step.
"""

from collections.abc import Callable


class Leaving:
    """Whether training ends after the running step.

    Args:
        asked: Whether this worker was asked to leave; it is called at every step and must not wait.
    """

    def __init__(self, asked: Callable[[], bool]) -> None:
        self._asked = asked
        self.agreed = False
        """Known to all workers alike once the exchange of a step is over."""

    def told(self) -> float:
        """Return what this worker adds to the exchange."""
        return float(self._asked())

    def heard(self, total: float) -> None:
        """Take the sum over all workers."""
        self.agreed = self.agreed or total > 0
