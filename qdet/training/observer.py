"""What takes part in the one collective that all ranks make in a step (`qdet.training.exchange`)."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from qdet.checkpoint import TrainState


@runtime_checkable
class Observer(Protocol):
    """Takes part in the exchange of every step, on every rank. Derive from it and override what applies."""

    def local(self) -> Sequence[float]:
        """Return what this rank contributes: equally many values on all ranks."""
        return ()

    def reduced(self, totals: Sequence[float]) -> None:
        """Take the sums of `local()` over all ranks. May be collective; raises on all ranks or on none."""

    def state(self) -> Mapping[str, Any]:
        """Return fields of `TrainState` for a checkpoint. May be collective."""
        return {}

    def restore(self, saved: TrainState) -> None:
        """Take the fields that `state()` gave back from a checkpoint."""

    def metrics(self) -> dict[str, float]:
        """Return what to log, counted since the last call where it is a count of events."""
        return {}
