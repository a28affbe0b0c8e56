"""Which metric points an MLflow run has, in bounded memory.

A resumed run repeats the steps after its checkpoint, and must not send their points again. Steps only go up
from there, so of each name the points from the last step asked for on are enough. Whatever else is asked for
is looked up at the server, which has all of them.
"""

from bisect import insort
from dataclasses import dataclass, field
from typing import Any

POINTS = 512
"""Points of a name that are kept."""
NAMES = 1024
"""Names of which points are kept: those used last."""


@dataclass
class _Window:
    """All points of one name at steps from `first` to `last`."""

    first: float | int
    last: float | int
    """Infinite where later points can only be those that this process adds."""
    steps: list[int] = field(default_factory=list)
    stamps: dict[int, int] = field(default_factory=dict)

    def add(self, step: int, stamp: int) -> None:
        """Add a point within the window, and drop its first where there are too many."""
        if step in self.stamps:
            return
        insort(self.steps, step)
        self.stamps[step] = stamp
        if len(self.steps) > POINTS:
            dropped = self.steps.pop(0)
            del self.stamps[dropped]
            self.first = dropped + 1


class KnownPoints:
    """The points of one MLflow run, fetched per metric name before its first point is sent."""

    def __init__(self, client: Any, run: Any) -> None:
        """`run` is the run before this process sent anything."""
        self._client, self._id = client, run.info.run_id
        self._names = frozenset(run.data.metrics)
        self._windows: dict[str, _Window] = {}  # the name used last is the last
        self._forgotten = False

    def takes(self, name: str, step: int, stamp: int) -> bool:
        """Whether a point may be sent: it is new, or already there with the same time stamp."""
        return self._at(name, step).stamps.get(step, stamp) == stamp

    def stamp(self, name: str, step: int) -> int | None:
        """Time stamp of a point that is there; None without one."""
        window = self._windows.get(name)
        if window is not None and window.first <= step <= window.last:
            return window.stamps.get(step)
        return self._history(name).get(step)

    def add(self, name: str, step: int, stamp: int) -> None:
        """Record that a point has arrived."""
        self._at(name, step).add(step, stamp)

    def _at(self, name: str, step: int) -> _Window:
        """Return the window of a name, moved to where it has a step."""
        window = self._windows.get(name)
        if window is None or not window.first <= step <= window.last:
            window = self._load(name, step)
        self._windows.pop(name, None)
        self._windows[name] = window
        if len(self._windows) > NAMES:
            del self._windows[next(iter(self._windows))]
            self._forgotten = True
        return window

    def _load(self, name: str, step: int) -> _Window:
        """Return a window that begins at a step, or before all that the server has."""
        there = self._history(name)
        steps = sorted(at for at in there if at >= step)
        kept = steps[:POINTS]
        last = float("inf") if len(kept) == len(steps) else kept[-1]
        first = step if len(kept) < len(there) else float("-inf")
        return _Window(first, last, kept, {at: there[at] for at in kept})

    def _history(self, name: str) -> dict[int, int]:
        """Ask the server for the stamps of a name's points by step: where there are several, of the first."""
        if name not in self._names and not self._forgotten and name not in self._windows:
            return {}
        there = self._client.get_metric_history(self._id, name)
        return {point.step: point.timestamp for point in reversed(there)}
