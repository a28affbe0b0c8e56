"""Shards to batches, along a plan, by readers that stay a bounded number of batches ahead.

Where an iteration stands is one integer, the step.
"""

from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from itertools import islice

import numpy as np
from jaxtyping import Int64

from qdet.data.augment import AugmentConfig
from qdet.data.collate import load_batch
from qdet.data.plan import Plan, plan_epoch, plan_evaluation, steps_per_epoch
from qdet.data.readers import read_ahead
from qdet.data.shards import ShardSet
from qdet.errors import ConfigError
from qdet.types import Batch


class TrainStream:
    """One worker's share of augmented training batches, from any step to any other.

    What a global step holds depends on `seed` and the global batch size, `batch_size`, alone: not on
    `world_size`, `accumulation`, `readers` or where the iteration began.
    """

    def __init__(
        self,
        shards: ShardSet,
        augment: AugmentConfig,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        accumulation: int = 1,
        readers: int = 2,
        prefetch: int = 4,
    ) -> None:
        if batch_size % (world_size * accumulation):
            raise ConfigError(
                f"--train.batch-size {batch_size} must split evenly over {world_size} workers "
                f"times --train.accumulation {accumulation}"
            )
        self.shards, self.augment, self.batch_size, self.seed = shards, augment, batch_size, seed
        self.accumulation, self.readers, self.ahead = accumulation, readers, max(prefetch, readers)
        self.micro_batch = batch_size // (world_size * accumulation)
        self._first = rank * accumulation * self.micro_batch
        self.steps_per_epoch = steps_per_epoch(len(shards), batch_size)
        """Global steps in an epoch; samples that fill no global batch sit it out."""

    def plan(self, epoch: int) -> Plan:
        """Every worker's batches of one epoch."""
        return plan_epoch(
            _sizes_hw(self.shards),
            self.shards.index.shard,
            self.augment,
            seed=self.seed,
            epoch=epoch,
            global_batch=self.batch_size,
        )

    def steps(self, first: int, last: int) -> Iterator[list[Batch]]:
        """Yield this worker's `accumulation` micro-batches of each global step from `first` to `last` - 1."""
        with closing(read_ahead(self._loads(first, last), readers=self.readers, ahead=self.ahead)) as batches:
            while micro_batches := list(islice(batches, self.accumulation)):
                yield micro_batches

    def _loads(self, first: int, last: int) -> Iterator[Callable[[], Batch]]:
        for epoch in range(first // self.steps_per_epoch, -(-last // self.steps_per_epoch)):
            plan = self.plan(epoch)
            start = epoch * self.steps_per_epoch
            for step in range(max(first - start, 0), min(last - start, self.steps_per_epoch)):
                for micro in range(self.accumulation):
                    begin = self._first + micro * self.micro_batch
                    chosen = plan.rows[step, begin : begin + self.micro_batch]
                    yield _load(self.shards, plan, step, chosen, np.ones(len(chosen), dtype=bool))


class EvalStream:
    """One worker's share of a split, every image once; batches do not depend on the number of workers.

    Workers get equally many batches. What fills them up has `valid` False.
    """

    def __init__(
        self,
        shards: ShardSet,
        augment: AugmentConfig,
        *,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        readers: int = 2,
        prefetch: int = 4,
    ) -> None:
        self.shards, self.rank, self.world_size = shards, rank, world_size
        self.readers, self.ahead = readers, max(prefetch, readers)
        self.plan = plan_evaluation(_sizes_hw(shards), augment, batch_size=batch_size)

    def __len__(self) -> int:
        return -(-len(self.plan.rows) // self.world_size)

    def __iter__(self) -> Iterator[Batch]:
        return read_ahead(self._loads(), readers=self.readers, ahead=self.ahead)

    def _loads(self) -> Iterator[Callable[[], Batch]]:
        rows = self.plan.rows
        valid = (np.arange(rows.size) < len(self.shards)).reshape(rows.shape)
        for number in range(self.rank, len(self) * self.world_size, self.world_size):
            if number < len(rows):
                yield _load(self.shards, self.plan, number, rows[number], valid[number])
            else:  # other workers have one batch more: the smallest, read again and not counted
                yield _load(
                    self.shards, self.plan, len(rows) - 1, rows[-1], np.zeros(rows.shape[1], dtype=bool)
                )


def _load(
    shards: ShardSet, plan: Plan, step: int, rows: Int64[np.ndarray, " b"], valid: np.ndarray
) -> Callable[[], Batch]:
    chosen = [int(row) for row in rows]
    padded = int(plan.padded_hw[step, 0]), int(plan.padded_hw[step, 1])
    views = [plan.views.of(row) for row in chosen]
    return partial(load_batch, shards, chosen, views, padded, [bool(v) for v in valid])


def _sizes_hw(shards: ShardSet) -> Int64[np.ndarray, "n 2"]:
    return np.stack([shards.index.height, shards.index.width], axis=1).astype(np.int64)
