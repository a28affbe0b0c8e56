"""Ranks simulated by threads of one process: they meet in collectives, which are written down."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch

from qdet.training.distributed import World


@dataclass
class Meeting:
    """Where all ranks bring a value and take everyone's along."""

    ranks: int

    def __post_init__(self) -> None:
        self.calls: list[list[str]] = [[] for _ in range(self.ranks)]
        """Names of the collectives that each rank made, in order."""
        self._values: list[Any] = [None] * self.ranks
        self._barrier = threading.Barrier(self.ranks, timeout=20)

    def meet(self, call: str, rank: int, value: Any) -> list[Any]:
        self._values[rank] = value
        self.calls[rank].append(call)
        self._barrier.wait()
        found = list(self._values)
        self._barrier.wait()
        return found


@dataclass(frozen=True)
class SimulatedWorld(World):
    """One of the ranks."""

    meeting: Meeting

    @property
    def calls(self) -> list[str]:
        """Names of the collectives that this rank made, in order."""
        return self.meeting.calls[self.rank]

    def sum(self, *values):
        rows = self.meeting.meet("sum", self.rank, values)
        return [float(sum(column)) for column in zip(*rows, strict=True)]

    def gather(self, value):
        found = self.meeting.meet("gather", self.rank, value)
        return found if self.main else []

    def broadcast(self, value):
        return self.meeting.meet("broadcast", self.rank, value)[0]


def on_simulated_ranks(ranks: int, task: Callable[[SimulatedWorld], Any]) -> list[Any]:
    """Call `task` on all ranks at once; return for each what it returned, or the error that it raised."""
    meeting = Meeting(ranks)
    worlds = [SimulatedWorld(rank, ranks, torch.device("cpu"), meeting) for rank in range(ranks)]

    def run(world: SimulatedWorld) -> Any:
        try:
            return task(world)
        except Exception as error:
            return error

    with ThreadPoolExecutor(ranks) as pool:
        return list(pool.map(run, worlds))
