"""Shards to batches, along a plan, by readers that stay a bounded number of batches ahead.

Where an iteration stands is one integer, the step.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from itertools import islice
from typing import Any, NamedTuple, overload

import numpy as np
from jaxtyping import Bool, Int64

from qdet.data.augment import AugmentConfig
from qdet.data.denoising.draw import NoiseSource
from qdet.data.image.view import View
from qdet.data.loading.collate import load_batch, load_padded_alone, padded_to
from qdet.data.loading.prefetch import Load
from qdet.data.loading.stream_config import StreamConfig
from qdet.data.loading.substitutes import BadBudget, Candidates
from qdet.data.plan.epoch import EpochPlan, plan_evaluation
from qdet.data.plan.order import Order, Step, places_of
from qdet.data.plan.reading import IndexedSizes
from qdet.data.shards.shard_set import ShardSet
from qdet.types import Batch

ANNOUNCED = 256
"""Batches, at least, whose samples are announced to the shards: half a window of the plan."""
SURVEYED = 2
"""How many times the announced steps the size of the cache is compared with."""


class TrainStream:
    """One worker's share of augmented training batches, from any step to any other.

    What a global step holds depends on seed and global batch size alone: not on `world_size`,
    `accumulation`, `readers`, how the dataset is cut into shards or where the iteration began. How far its
    images are padded depends on the first two as well where `config.pad` is `rank`.
    """

    def __init__(
        self,
        shards: ShardSet,
        augment: AugmentConfig,
        config: StreamConfig,
        *,
        by_size: bool = True,
    ) -> None:
        config.check_split()
        self.shards, self.rank, self.world_size = shards, config.rank, config.world_size
        self.accumulation, self.pad, self._noise = config.accumulation, config.pad, config.noise
        self._read_ahead = config.reader()
        self.bad = BadBudget(config.max_bad)
        self.order = Order(
            index=shards.index,
            augment=augment,
            batch_size=config.batch_size,
            seed=config.seed,
            tail=config.tail,
            by_size=by_size,
        )
        self.steps_per_epoch = self.order.steps_per_epoch
        """Global steps in an epoch."""

    def plan(self, epoch: int) -> EpochPlan:
        """Every worker's batches of one epoch."""
        return self.order.plan(epoch)

    def steps(self, first: int, last: int) -> Iterator[list[Batch]]:
        """Yield this worker's `accumulation` micro-batches of each global step from `first` to `last` - 1."""
        if self.rank == 0:
            self._say_if_the_cache_is_small(first)
        with closing(self._read_ahead(self._loads(first, last))) as batches:
            while micro_batches := list(islice(batches, self.accumulation)):
                yield [self.bad.record(batch) for batch in micro_batches]

    def _say_if_the_cache_is_small(self, first: int) -> None:
        if self.shards.files.cache_capacity is None:
            return
        announced = max(1, 2 * ANNOUNCED // self.accumulation)
        steps = islice(self.order.steps(first, first + self.steps_per_epoch), SURVEYED * announced)
        if warning := warning_of_small_cache(self.shards, steps, announced):
            print(warning, flush=True)

    def _loads(self, first: int, last: int) -> Iterator[Load]:
        return _loads(self.shards, self._parts(first, last))

    def _parts(self, first: int, last: int) -> Iterator["_Part"]:
        for number, step in enumerate(self.order.steps(first, last), first):
            noise = self._noise(number // self.steps_per_epoch)
            mine = places_of(self.rank, self.world_size, len(step.rows))
            for places in np.array_split(mine, self.accumulation):
                candidates = _candidates(step, places) if self.bad.limit else None
                rows, valid = step.rows[places], np.ones(len(places), dtype=bool)
                yield _Part(step, rows, valid, candidates, noise, self._multiple)

    @property
    def _multiple(self) -> int | None:
        return self.order.augment.pad_multiple if self.pad == "rank" else None


class EvalStream:
    """One worker's share of a split, every image once; batches do not depend on the number of workers.

    Workers get equally many batches. What fills them up has `valid` False.
    """

    def __init__(self, shards: ShardSet, augment: AugmentConfig, config: StreamConfig) -> None:
        self.shards, self.rank, self.world_size = shards, config.rank, config.world_size
        self._read_ahead, sizes = config.reader(), IndexedSizes(shards.index)
        self.plan = plan_evaluation(sizes[np.arange(len(sizes))], augment, batch_size=config.batch_size)

    def __len__(self) -> int:
        return -(-len(self.plan.rows) // self.world_size)

    def __iter__(self) -> Iterator[Batch]:
        return self._read_ahead(self._loads())

    def _loads(self) -> Iterator[Load]:
        return _loads(self.shards, self._parts())

    def _parts(self) -> Iterator["_Part"]:
        rows = self.plan.rows
        valid = (np.arange(rows.size) < len(self.shards)).reshape(rows.shape)
        for number in range(self.rank, len(self) * self.world_size, self.world_size):
            if number < len(rows):
                yield _Part(Step(self.plan, number), rows[number], valid[number])
            else:  # other workers have one batch more: the smallest, read again and not counted
                yield _Part(Step(self.plan, len(rows) - 1), rows[-1], np.zeros_like(valid[-1]))


class _Part(NamedTuple):
    """A worker's share of a step, or a micro-batch of it."""

    step: Step
    rows: Int64[np.ndarray, " b"]
    valid: Bool[np.ndarray, " b"]
    candidates: Candidates | None = None
    noise: NoiseSource | None = None
    alone: int | None = None
    """What the sides of the largest of these images are rounded up to, where they are padded to it."""


class _StepViews(Sequence[View]):
    """The views of a global batch, made when one is asked for; pickled, it becomes a tuple of them."""

    def __init__(self, step: Step) -> None:
        self._step = step

    def __len__(self) -> int:
        return len(self._step.rows)

    @overload
    def __getitem__(self, place: int) -> View: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[View]: ...

    def __getitem__(self, place: int | slice) -> View | Sequence[View]:
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        return self._step.plan.views.of(int(self._step.rows[place]))

    def __reduce__(self) -> tuple[Any, ...]:
        return tuple, ([*self],)


def _candidates(step: Step, places: Int64[np.ndarray, " b"]) -> Candidates:
    rows = tuple(step.rows.tolist())
    return Candidates(step=step.place, rows=rows, views=_StepViews(step), places=tuple(places.tolist()))


def _loads(shards: ShardSet, parts: Iterator[_Part]) -> Iterator[Load]:
    """What reads each part; the shards learn in time what will be read, also across the end of an epoch.

    The first part is handed over alone, before the steps after it are planned.
    """
    now = list(islice(parts, 1))
    _announce(shards, now)
    while now:
        yield _load(shards, now[0])
        after = list(islice(parts, ANNOUNCED))
        _announce(shards, now + after)
        yield from (_load(shards, part) for part in now[1:])
        now = after


def _announce(shards: ShardSet, parts: Sequence[_Part]) -> None:
    if parts:
        needed = [part.step.plan.views.needed(part.rows) for part in parts]
        shards.will_read(np.concatenate(needed).tolist())


def _load(shards: ShardSet, part: _Part) -> Load:
    rows = part.rows.tolist()
    views = [part.step.plan.views.of(row) for row in rows]
    valid, padded_hw = part.valid.tolist(), part.step.padded_hw
    beside = (part.candidates, part.noise)
    if part.alone is None:
        return partial(load_batch, shards, rows, views, padded_hw, valid, *beside)
    own_hw = padded_to(views, part.alone)
    return partial(load_padded_alone, own_hw, shards, rows, views, padded_hw, valid, *beside)


def warning_of_small_cache(shards: ShardSet, planned: Iterator[Step], steps: int) -> str | None:
    """Say how large the cache should be, where it holds less than any `steps` of the planned ones read from.

    All workers are counted, for those of a machine share its cache. None where it is large enough, or where
    shards need none.
    """
    limit = shards.files.cache_capacity
    if limit is None:
        return None
    sizes = np.array([shard["filesize"] for shard in shards.manifest["shardlist"]], dtype=np.int64)
    needed = 0
    while rows := [step.rows for step in islice(planned, steps)]:
        needed = max(needed, int(sizes[np.unique(shards.index.shard[np.concatenate(rows)])].sum()))
    if needed <= limit:
        return None
    enough = math.ceil(needed / 1e8) / 10
    return (
        f"--data.cache-gb {limit / 1e9:g} is less than the {needed / 1e9:.3g} GB of shards that {steps} "
        f"steps of the plan read from, so that shards are fetched again and again; {enough:g} would do"
    )
