"""In which order a run reads its training images, over all its epochs, and which of them are whose.

Training (`qdet.data.loading.planned_stream`) and `qdet order`, which prints what it reads,
ask the same two things: the planned steps, and a worker's share of a step.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64, Shaped

from qdet.data.augment import AugmentConfig
from qdet.data.plan.epoch import Plan, Tail, plan_epoch, steps_per_epoch
from qdet.data.shards.index import Index


@dataclass(frozen=True)
class Step:
    """One global step: a line of the plan of its epoch."""

    plan: Plan
    place: int
    """Which of its epoch's steps this is, from 0."""

    @property
    def rows(self) -> Int64[np.ndarray, " G"]:
        """Samples of the global batch."""
        return self.plan.rows[self.place]

    @property
    def padded_hw(self) -> tuple[int, int]:
        """Height and width that its images are padded to."""
        h, w = self.plan.padded_hw[self.place]
        return int(h), int(w)


@dataclass(frozen=True, kw_only=True)
class Order:
    """The planned steps of a run, computed where they are asked for: it has no state."""

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
        return steps_per_epoch(len(self.index), self.batch_size, self.tail)

    def plan(self, epoch: int) -> Plan:
        """All batches of one epoch."""
        return plan_epoch(
            sizes_hw(self.index),
            self.augment,
            seed=self.seed,
            epoch=epoch,
            global_batch=self.batch_size,
            tail=self.tail,
            by_size=self.by_size,
        )

    def steps(self, first: int, last: int) -> Iterator[Step]:
        """Yield the global steps from `first` to `last` - 1, counted over all epochs."""
        each = self.steps_per_epoch
        for epoch in range(first // each, -(-last // each)):
            plan = self.plan(epoch)
            for place in range(max(first - epoch * each, 0), min(last - epoch * each, each)):
                yield Step(plan, place)


def share(rows: Shaped[np.ndarray, " G"], *, rank: int, world_size: int) -> Shaped[np.ndarray, " b"]:
    """What one of `world_size` workers reads of a global batch: their shares differ by one image at most."""
    return rows[rank * len(rows) // world_size : (rank + 1) * len(rows) // world_size]


def sizes_hw(index: Index) -> Int64[np.ndarray, "n 2"]:
    """Height and width of every image file."""
    return np.stack([index.height, index.width], axis=1).astype(np.int64)
