"""Stragglers: workers that keep the others waiting, found from the times of each step on each worker.

A step takes equally long everywhere, since workers wait for each other in collectives. Only what a worker
does between collectives is its own: waiting for data and the forward pass. A worker is compared with the
others *of the same step*, which cancels what differs between steps, such as the size of the images; medians
ignore single slow steps.
"""

import socket
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from qdet.training.distributed import World
from qdet.training.observer import Observer

PARTS = ("waiting for data", "forward pass")
WINDOW = 40
"""Steps that are compared together."""
EVERY = 5
"""Steps between two comparisons."""
SLOWER = 1.2
"""A straggler's median step takes at least this many times as long as the others' ..."""
OFTEN = 0.7
"""... and this share of its steps at least `A_LITTLE` times as long: one bad minute is not enough."""
A_LITTLE = 1.1
QUIET = 500
"""Steps before the same worker is reported again."""


@dataclass(frozen=True)
class Straggler:
    """A worker that is slower than the others."""

    rank: int
    ratio: float
    """Its own time per step over the median of the others'."""
    part: str
    """The one of `PARTS` that makes most of the difference."""


def find_stragglers(times: Float[np.ndarray, "steps ranks parts"]) -> list[Straggler]:
    """Return the workers whose own time was longer than the others' in most steps."""
    if times.shape[1] < 2:
        return []
    whole = times.sum(2)
    ratios = whole / np.maximum(median_of_others(whole), 1e-9)
    slower, often = np.median(ratios, axis=0), (ratios >= A_LITTLE).mean(0)
    found = []
    for rank in np.flatnonzero((slower >= SLOWER) & (often >= OFTEN)).tolist():
        others = np.median(np.delete(times, rank, axis=1), axis=1)
        more = np.median(times[:, rank] - others, axis=0)
        found.append(Straggler(rank, float(slower[rank]), PARTS[int(more.argmax())]))
    return found


def median_of_others(values: Float[np.ndarray, "steps ranks"]) -> Float[np.ndarray, "steps ranks"]:
    """Return, for each rank and step, the median over the other ranks; there must be at least two ranks."""
    count = values.shape[1]
    order = np.argsort(values, axis=1)
    ordered, place = np.take_along_axis(values, order, axis=1), np.argsort(order, axis=1)

    def without_itself(index: int) -> np.ndarray:
        return np.where(index < place, ordered[:, [index]], ordered[:, [index + 1]])

    return (without_itself((count - 2) // 2) + without_itself((count - 1) // 2)) / 2


class Stragglers:
    """The last steps of a training, and the workers reported so far."""

    def __init__(self) -> None:
        self._times: deque[np.ndarray] = deque(maxlen=WINDOW)
        self._steps = 0
        self._reported: dict[int, int] = {}

    def add(self, times: Float[np.ndarray, "ranks parts"]) -> list[Straggler]:
        """Add one step; return the stragglers to report now."""
        self._times.append(times)
        self._steps += 1
        if len(self._times) < WINDOW or self._steps % EVERY:
            return []
        found = [s for s in find_stragglers(np.stack(self._times)) if self._is_news(s.rank)]
        self._reported |= {straggler.rank: self._steps for straggler in found}
        return found

    def _is_news(self, rank: int) -> bool:
        return self._steps - self._reported.get(rank, -QUIET) >= QUIET


def describe(straggler: Straggler, hosts: Sequence[str]) -> str:
    """Return a line that names the worker, how slow it is and in what."""
    return (
        f"worker {straggler.rank} on host {hosts[straggler.rank]} is {straggler.ratio:.2f} times as slow as "
        f"the others' median over the last {WINDOW} steps, mostly in: {straggler.part}"
    )


class StepTimes(Observer):
    """What the previous step took on each rank: stragglers are reported. Constructing it is collective."""

    def __init__(self, world: World, *, sharded: bool) -> None:
        self._world, self._sharded, self._stragglers = world, sharded, Stragglers()
        self._hosts: list[str] = world.broadcast(world.gather(socket.gethostname()))
        self._last: tuple[float, float] | None = None

    def observe(self, waited: float, forward: float) -> None:
        """Take the seconds that this rank waited for data and spent in forward passes."""
        self._last = waited, forward

    def local(self) -> Sequence[float]:
        """Return a row for every rank, zero but for this one's."""
        times = np.zeros((self._world.size, len(PARTS)))
        times[self._world.rank] = self._last or 0.0
        return times.flatten().tolist()

    def reduced(self, totals: Sequence[float]) -> None:
        """Look for stragglers; rank 0 prints them."""
        if self._last is None:
            return
        times = np.array(totals).reshape(self._world.size, len(PARTS))
        if self._sharded:  # ZeRO-3's forward passes wait for each other: only the shortest waited for none
            times[:, 1] = times[:, 1].min()
        for straggler in self._stragglers.add(times):
            if self._world.main:
                print(describe(straggler, self._hosts), flush=True)
