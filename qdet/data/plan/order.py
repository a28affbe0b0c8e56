"""In which order a run reads its training images, over all its epochs, and which of them are whose.

Training (`qdet.data.loading.planned_stream`) and `qdet order`, which prints what it reads,
ask the same two things: the planned steps, and a worker's share of a step.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TypeVar

import numpy as np
from jaxtyping import Int64, Shaped

from qdet.data.augment import AugmentConfig
from qdet.data.plan.epoch import EpochPlan, Plan, Tail, steps_per_epoch
from qdet.data.plan.reading import IndexedSizes, rows_to_train
from qdet.data.plan.recent import Recent
from qdet.data.shards.index import Index

T = TypeVar("T")
KEPT = 4
"""Windows that are kept: the one that is trained on, those that are read ahead and the one after them."""


@dataclass(frozen=True)
class Step:
    """One global step: a line of the plan of its epoch."""

    plan: Plan
    """A stretch of the epoch that this step is in."""
    place: int
    """Which of its epoch's steps this is, from 0."""

    @property
    def rows(self) -> Int64[np.ndarray, " G"]:
        """Samples of the global batch."""
        return self.plan.rows[self.place - self.plan.first]

    @property
    def padded_hw(self) -> tuple[int, int]:
        """Height and width that its images are padded to."""
        h, w = self.plan.padded_hw[self.place - self.plan.first]
        return int(h), int(w)


@dataclass(frozen=True, kw_only=True)
class Order:
    """The planned steps of a run, computed where they are asked for; the last windows are kept."""

    index: Index
    augment: AugmentConfig
    batch_size: int
    """Images of a global batch."""
    seed: int
    tail: Tail = "drop"
    by_size: bool = True
    """Whether a batch holds images of like size."""

    @property
    def steps_per_epoch(self) -> int:
        """Global steps in an epoch; ConfigError if there is none."""
        return steps_per_epoch(self.samples, self.batch_size, self.tail)

    @property
    def samples(self) -> int:
        """Images of an epoch: those that the pipeline trains on."""
        return len(self.index if self._rows is None else self._rows)

    def plan(self, epoch: int) -> EpochPlan:
        """The plan of one epoch, whose windows are not computed yet."""
        return self._epochs.get(epoch, lambda: self._plan(epoch))

    def step(self, number: int) -> Step:
        """One global step, counted over all epochs."""
        epoch, place = divmod(number, self.steps_per_epoch)
        return Step(self._window(epoch, self.plan(epoch).window_of(place)), place)

    def steps(self, first: int, last: int) -> Iterator[Step]:
        """Yield the global steps from `first` to `last` - 1, counted over all epochs.

        A thread computes each window while the steps of the one before it are being used.
        """
        each = self.steps_per_epoch
        for epoch, plan in _one_ahead(self._windows(first, last)):
            start = epoch * each + plan.first
            for step in range(max(first, start), min(last, start + len(plan.rows))):
                yield Step(plan, step - epoch * each)

    def _windows(self, first: int, last: int) -> Iterator[Callable[[], tuple[int, Plan]]]:
        """Yield what returns the windows of some steps, each with its epoch."""
        while first < last:
            epoch, place = divmod(first, self.steps_per_epoch)
            plan = self.plan(epoch)
            window = plan.window_of(place)
            yield partial(lambda epoch, window: (epoch, self._window(epoch, window)), epoch, window)
            first += plan.span(window).stop - place

    def _window(self, epoch: int, number: int) -> Plan:
        return self._kept.get((epoch, number), lambda: self.plan(epoch).window(number))

    def _plan(self, epoch: int) -> EpochPlan:
        return EpochPlan(
            IndexedSizes(self.index),
            self.augment,
            seed=self.seed,
            epoch=epoch,
            global_batch=self.batch_size,
            tail=self.tail,
            by_size=self.by_size,
            kept=self._rows,
        )

    @cached_property
    def _rows(self) -> Int64[np.ndarray, " k"] | None:
        return rows_to_train(self.index, self.augment.rules)

    @cached_property
    def _epochs(self) -> Recent[int, EpochPlan]:
        return Recent(2)

    @cached_property
    def _kept(self) -> Recent[tuple[int, int], Plan]:
        return Recent(KEPT)


def share(rows: Shaped[np.ndarray, " G"], *, rank: int, world_size: int) -> Shaped[np.ndarray, " b"]:
    """What one of `world_size` workers reads of a global batch: their shares differ by one image at most."""
    places = places_of(rank, world_size, len(rows))
    return rows[places.start : places.stop]


def places_of(rank: int, world_size: int, batch_size: int) -> range:
    """Return the places of a global batch that one of `world_size` workers reads."""
    return range(rank * batch_size // world_size, (rank + 1) * batch_size // world_size)


def _one_ahead(tasks: Iterable[Callable[[], T]]) -> Iterator[T]:
    """Yield what each task returns, while a thread already does the one after it."""
    with ThreadPoolExecutor(1, thread_name_prefix="qdet-plan") as thread:
        running: Future[T] | None = None
        for task in tasks:
            done, running = running, thread.submit(task)
            if done is not None:
                yield done.result()
        if running is not None:
            yield running.result()
