"""Print the order in which training reads its images.

The order comes from training's own plan (`qdet.data.plan.order`). Without a job this needs no PyTorch.
"""

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from qdet.data.config import DataConfig
from qdet.data.plan.order import Order, share
from qdet.data.shards.shard_set import ShardSet
from qdet.errors import ConfigError, DataError


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """Some steps of an epoch, and the workers that share each of them."""

    epoch: int = 0
    start: int = 0
    """First step, counted from the epoch's beginning."""
    steps: int | None = None
    """How many; by default all up to the epoch's end, which they never pass."""
    world: int = 1
    """Workers."""

    def __post_init__(self) -> None:
        """Reject values that no training has."""
        for name, least in (("epoch", 0), ("start", 0), ("steps", 0), ("world", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"--{name} must be at least {least}, got {value}")


def lines(
    shards: ShardSet, data: DataConfig, stretch: Stretch, *, seed: int, global_batch: int
) -> Iterator[str]:
    """Yield a JSON object per step: its number in the epoch and the image ids that every rank reads.

    Raises:
        ConfigError: There are more workers than images in a batch, the stretch begins behind the end, or the
            job reads without a plan.
    """
    if data.reading == "sequential":
        raise ConfigError("--data.reading sequential follows no plan: there is no order to show")
    if global_batch < stretch.world:
        raise ConfigError(f"--global-batch {global_batch} has no image for some of --world {stretch.world}")
    order = Order(
        index=shards.index,
        augment=data.augment,
        batch_size=global_batch,
        seed=seed,
        tail=data.tail,
        by_size=data.by_size,
    )
    each = order.steps_per_epoch
    if stretch.start >= each:
        raise ConfigError(f"--start {stretch.start} is behind the epoch's last step, {each - 1}")
    last = each if stretch.steps is None else min(stretch.start + stretch.steps, each)
    begins = stretch.epoch * each
    for step in order.steps(begins + stretch.start, begins + last):
        ids = shards.index.image_id[step.rows]
        ranks = [share(ids, rank=rank, world_size=stretch.world).tolist() for rank in range(stretch.world)]
        yield json.dumps({"step": step.place, "ranks": ranks})


def show(output: Iterable[str]) -> None:
    """Print lines until they end or the reader closes the pipe, as `head` does."""
    try:
        for line in output:
            print(line)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit


def find_split(data: str, split: str, settings: DataConfig) -> ShardSet:
    """Open the shards of `split`: the folder of that name in `data`, or `data` itself if it holds them."""
    inner = f"{data.rstrip('/')}/{split}"
    if "://" not in data:
        found = Path(inner).is_dir()
        return settings.open(inner) if found else _check_name(settings.open(data), data, split)
    try:
        return settings.open(inner)
    except DataError:
        return _check_name(settings.open(data), data, split)


def settings_of(job: Path | None, flags: Sequence[str]) -> DataConfig:
    """What decides the order beside seed and batch size: a job file, or defaults, and a job's flags.

    Raises:
        ConfigError: The file is not there or holds no job.
    """
    if job is None and not flags:
        return DataConfig()
    from qdet.job import Job
    from qdet.job_files import find_job
    from qdet.launching.cli import parse
    from qdet.recipes import Recipe, read

    return parse(Recipe(job=Job(name="order")) if job is None else read(find_job(job)), flags).data


def _check_name(shards: ShardSet, data: str, split: str) -> ShardSet:
    """Refuse shards that say they are of another split; `train` also means COCO's `train2017`."""
    name = str(shards.manifest.get("name", split))
    if not name.startswith(split):
        raise ConfigError(f"--data {data} holds the split {name}, not --split {split}")
    return shards
