"""Which steps of a run's curves MLflow has already.

A run that goes on repeats the steps since its last checkpoint. MLflow takes a second point at a step and
shows both, and cannot take one back. The repeated step is the same step, so its first point is its point.
"""

from typing import Any


class KnownPoints:
    """The points of one MLflow run, asked for by name when the first point of that name is sent."""

    def __init__(self, client: Any, run: Any) -> None:
        """`run` is the run as it was before this process sent anything to it."""
        self._client, self._id = client, run.info.run_id
        self._names = frozenset(run.data.metrics)
        self._stamps: dict[str, dict[int, int]] = {}

    def takes(self, name: str, step: int, stamp: int) -> bool:
        """Whether a point is not there yet. One that is, with this very time stamp, may be sent again."""
        return self._of(name).get(step, stamp) == stamp

    def add(self, name: str, step: int, stamp: int) -> None:
        """Note that a point has arrived."""
        self._of(name).setdefault(step, stamp)

    def _of(self, name: str) -> dict[int, int]:
        if name not in self._stamps:
            there = self._client.get_metric_history(self._id, name) if name in self._names else []
            self._stamps[name] = {point.step: point.timestamp for point in reversed(there)}
        return self._stamps[name]
