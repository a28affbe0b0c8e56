"""Training batches of shards that are read from front to back, on webdataset's own pipeline.

For commands, and for stores where reading by offset or through a cache is too expensive. The promise is
weaker than that of a plan, and is printed when training starts.
"""

import itertools
import math
import random
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from hashlib import blake2b
from typing import Any

import numpy as np

from qdet.data.augment import AugmentConfig
from qdet.data.denoising.draw import NoiseSource
from qdet.data.image.resize import HW
from qdet.data.image.view import View
from qdet.data.loading.collate import load_padded_alone, padded_to
from qdet.data.loading.in_memory import InMemorySample, InMemorySamples, id_of_unreadable, parse_sample
from qdet.data.loading.prefetch import Load, read_ahead
from qdet.data.loading.stream_config import StreamConfig
from qdet.data.loading.substitutes import BadBudget, Candidates
from qdet.data.plan.epoch import steps_per_epoch
from qdet.data.plan.order import share
from qdet.data.plan.random_rows import philox
from qdet.data.plan.views import draw_views
from qdet.data.shards.manifest import Listed
from qdet.data.shards.report import Report, describe_report
from qdet.data.shards.sequential_read import files_of
from qdet.data.shards.sequential_set import SequentialSet
from qdet.errors import ConfigError, DataError
from qdet.types import Batch, Substitute

PROMISE = (
    "--data.reading sequential: {shards} shards are read from front to back by {world} workers. Promised: "
    "{steps} steps per epoch on every worker, and augmentation that follows from seed, epoch and key of an "
    "image. Not promised: which images a step or an epoch holds. That depends on the number of workers; an "
    "image may come twice in an epoch, or not at all"
)
_DRY = 64
"""Shards in a row without a sample, or samples in a row that are bad, after which no good one will come."""


@dataclass(frozen=True)
class _Part:
    """A shard, or every `stride`-th of its samples from number `first` on, where shards are too few."""

    shard: Listed
    first: int
    stride: int


class SequentialStream:
    """One worker's training batches; as many per epoch as `len(dataset)` images fill, wherever they begin."""

    def __init__(
        self,
        dataset: SequentialSet,
        augment: AugmentConfig,
        config: StreamConfig,
        *,
        shuffle: int = 1000,
    ) -> None:
        config.check_split()
        if augment.mosaic or augment.mixup:
            raise ConfigError(
                "--data.augment.mosaic and --data.augment.mixup need other images at will, which "
                "--data.reading sequential does not have; leave them at 0"
            )
        self.dataset, self.augment, self.seed, self.shuffle = dataset, augment, config.seed, shuffle
        self.rank, self.world_size, self.accumulation = config.rank, config.world_size, config.accumulation
        self.steps_per_epoch = steps_per_epoch(len(dataset), config.batch_size, config.tail)
        """Global steps in an epoch."""
        self.bad = BadBudget(config.max_bad)
        self._share = len(share(np.arange(config.batch_size), rank=config.rank, world_size=config.world_size))
        self._printed: set[str] = set()
        self.pad, self._noise = config.pad, config.noise
        self._ahead, self._read_ahead = config.ahead, config.reader()

    def steps(self, first: int, last: int) -> Iterator[list[Batch]]:
        """Yield this worker's micro-batches of each global step from `first` to `last` - 1."""
        if self.rank == 0:
            self._print_promise(first)
        with (
            closing(self._loads(first, last)) as made,
            closing(self._off_thread(made, (last - first) * self.accumulation)) as loads,
            closing(self._read_ahead(loads)) as batches,
        ):
            while micro_batches := list(itertools.islice(batches, self.accumulation)):
                yield [self.bad.record(batch) for batch in micro_batches]

    def _print_promise(self, first: int) -> None:
        shards, world = len(self.dataset.shards), self.world_size
        print(PROMISE.format(shards=shards, world=world, steps=self.steps_per_epoch), flush=True)
        if first:
            print(
                f"--data.reading sequential resumes at step {first} with freshly shuffled shards: which "
                "images came before is not known",
                flush=True,
            )

    def _off_thread(self, made: Iterator[Load], count: int) -> Generator[Load, None, None]:
        """Let one thread read shards ahead, so that training does not wait for them."""
        nexts = itertools.repeat(partial(next, made), count)
        return read_ahead(nexts, readers=1, ahead=self._ahead)

    def _loads(self, first: int, last: int) -> Generator[Load, None, None]:
        """What makes each micro-batch."""
        with closing(self._samples(first)) as samples:
            for step in range(first, last):
                taken = [next(samples) for _ in range(self._share)]
                held = InMemorySamples(
                    tuple(sample for sample, _ in taken),
                    self.dataset.categories,
                    self.dataset.access.max_pixels,
                )
                epoch = step // self.steps_per_epoch
                views = [self._view(sample, epoch) for sample in held.samples]
                padded_hw = self._padded_to(views)
                for places in np.array_split(np.arange(self._share), self.accumulation):
                    rows = places.tolist()
                    candidates = Candidates(step, tuple(range(self._share)), tuple(views), tuple(rows))
                    mine = [views[row] for row in rows]
                    yield partial(
                        _load,
                        self._padded_to(mine) if self.pad == "rank" else padded_hw,
                        held,
                        rows,
                        mine,
                        padded_hw,
                        candidates if self.bad.limit else None,
                        tuple(missing for row in rows for missing in taken[row][1]),
                        self._noise(epoch),
                    )

    def _samples(self, first: int) -> Generator[tuple[InMemorySample, tuple[Substitute, ...]], None, None]:
        """Yield samples endlessly, each with the unreadable ones before it."""
        from webdataset.filters import shuffle
        from webdataset.pipeline import DataPipeline

        chance = random.Random(f"{self.seed} {first} {self.rank}")
        # In a small dataset images of many passes would wait in a large buffer, some of them for long.
        held = min(self.shuffle, 1 + len(self.dataset) // (2 * self.world_size))
        pipeline = DataPipeline(
            lambda: self._parts(first),
            self._expand,
            shuffle(held, initial=held // 4, rng=chance),
        )
        left_out: dict[int, str] = {}
        in_a_row, left_by_pipeline, report = 0, 0, Report()
        for raw in pipeline:
            try:
                sample = parse_sample(raw, self.dataset.categories, self.dataset.access.max_pixels, report)
            except DataError as error:
                left_out[id_of_unreadable(raw)] = str(error)
                in_a_row += 1
                if len(left_out) > self.bad.limit or in_a_row > _DRY * len(left_out):
                    raise
                continue
            if not self._is_trained_on(sample):
                left_by_pipeline = self._count_left_out(left_by_pipeline)
                continue
            yield (
                sample,
                tuple(Substitute(planned, sample.image_id, why) for planned, why in left_out.items()),
            )
            left_out, in_a_row, left_by_pipeline = {}, 0, 0
            self._print_new(report)

    def _is_trained_on(self, sample: InMemorySample) -> bool:
        """Whether the pipeline trains on it; `rows_to_train` asks the same of an index."""
        rules = self.augment.rules
        wanted = rules.without_objects or bool(sample.annotations.kinds)
        return wanted and min(sample.hw) >= rules.least_side

    def _count_left_out(self, before: int) -> int:
        """Count one more image in a row that is not trained on; DataError where no other will come."""
        if before > max(_DRY, 2 * len(self.dataset)):
            raise DataError(
                f"{self.dataset.source} has no image with objects, and --data.augment.pipeline "
                f"{self.augment.pipeline} leaves out those without; name other shards, or take detr"
            )
        return before + 1

    def _print_new(self, report: Report) -> None:
        """Print each kind of irregular entry once, when it first occurs."""
        new = {kind: count for kind, count in report.counts.items() if kind not in self._printed}
        self._printed |= new.keys()
        for line in describe_report(new, report.first):
            print(f"{self.dataset.source}: {line}", flush=True)

    def _parts(self, first: int) -> Iterator[_Part]:
        """This worker's shards, endlessly: each pass over them is shuffled and dealt out to all workers."""
        shards = self.dataset.shards
        stride = math.ceil(self.world_size / len(shards))
        parts = [_Part(shard, k, stride) for shard in shards for k in range(stride)]
        chance = np.random.Generator(philox(self.seed, first, stream=4))
        dealt = (parts[place] for _ in itertools.count() for place in chance.permutation(len(parts)).tolist())
        return itertools.islice(dealt, self.rank, None, self.world_size)

    def _expand(self, parts: Iterable[_Part]) -> Iterator[dict[str, Any]]:
        """Yield the samples of parts, as webdataset groups them."""
        from webdataset.tariterators import group_by_keys

        dry = 0
        for part in parts:
            dry += 1
            files = files_of(part.shard, self.dataset.access.allow_pipes)
            with closing(files):
                for raw in itertools.islice(group_by_keys(files), part.first, None, part.stride):
                    dry = 0
                    yield raw
            if dry > max(_DRY, 8 * part.stride * len(self.dataset.shards)):
                raise DataError(f"{self.dataset.source} has no samples; name shards that hold some")

    def _view(self, sample: InMemorySample, epoch: int) -> View:
        """How a sample is seen: a function of seed, epoch and key, on any worker at any step."""
        drawn = blake2b(f"{self.seed}/{sample.key}".encode("utf-8", "surrogateescape"), digest_size=8)
        seed = int.from_bytes(drawn.digest(), "big")
        return draw_views(np.array([sample.hw]), self.augment, seed=seed, epoch=epoch).of(0)

    def _padded_to(self, views: list[View]) -> HW:
        return padded_to(views, self.augment.pad_multiple)


def _load(
    own_hw: HW,
    held: InMemorySamples,
    rows: list[int],
    views: list[View],
    padded_hw: HW,
    candidates: Candidates | None,
    left_out: tuple[Substitute, ...],
    noise: NoiseSource | None,
) -> Batch:
    batch = load_padded_alone(own_hw, held, rows, views, padded_hw, [True] * len(rows), candidates, noise)
    return replace(batch, substitutes=(*left_out, *batch.substitutes)) if left_out else batch
