"""Stopping after a whole step, with a checkpoint: SIGTERM may reach one rank before the others."""

from collections.abc import Callable, Sequence

from qdet.training.observer import Observer


class GracefulStop(Observer):
    """Whether training stops after the running step: one rank may be asked before the others.

    Args:
        requested: Whether this rank was asked to stop; called in every step, must not wait.
    """

    def __init__(self, requested: Callable[[], bool]) -> None:
        self._requested = requested
        self.agreed = False
        """The same on all ranks after the exchange of a step."""

    def local(self) -> Sequence[float]:
        """Return 1 if this rank was asked to stop."""
        return (float(self._requested()),)

    def reduced(self, totals: Sequence[float]) -> None:
        """Agree to stop if any rank was asked to; once agreed, it stays so."""
        self.agreed = self.agreed or totals[0] > 0
