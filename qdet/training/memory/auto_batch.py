"""`--train.auto-batch`: the most images at a time that fit; several passes keep the global batch.

Which images form a step, and how each is augmented and padded, is planned from seed and global batch size
(`qdet.data.plan`), and the loss is divided by the objects of the global batch: what is chosen here changes
only how many of them are computed at a time, like `--train.accumulation`, which it sets.
"""

from collections.abc import Callable
from dataclasses import dataclass

from qdet.config import override
from qdet.errors import ConfigError
from qdet.job import Job
from qdet.training.distributed import World
from qdet.training.engine.stage import GIB, device_memory
from qdet.training.memory.trial import CountedTrial, MeasuredTrial, Trial
from qdet.types import Batch

USABLE = 0.9
"""Share of a device's memory that a pass may take: the rest is for buckets, fragments and larger batches."""


@dataclass(frozen=True)
class Split:
    """One way to cut a rank's share of a step."""

    accumulation: int
    """`--train.accumulation` that cuts it so."""
    passes: int
    images: int
    """Images of its largest micro-batch."""


def list_splits(job: Job, ranks: int) -> list[Split]:
    """Return how a step of `job` can be cut, fewest passes first, none fewer than its own accumulation.

    Of those with as many passes, the one with the lowest accumulation.
    """
    train, found = job.train, {}
    share = -(-train.batch_size // ranks)
    for accumulation in range(train.accumulation, train.batch_size // train.most_workers + 1):
        try:
            passes = override(job, {"train.accumulation": accumulation}).train.passes(ranks)
        except ConfigError:  # it does not split the batch evenly
            continue
        if passes * ranks <= train.batch_size:
            found.setdefault(passes, Split(accumulation, passes, -(-share // passes)))
    return [found[passes] for passes in sorted(found)]


def first_fitting(count: int, fits: Callable[[int], bool]) -> int:
    """Return the first of `count` numbers from 0 that fits, else `count`; all after one that fits do."""
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle + 1, high)
    return low


def settle_batch(job: Job, world: World, *, classes: int, load: Callable[[Job], Batch]) -> Job:
    """Return `job` with the accumulation that `--train.auto-batch` finds, the same on all ranks. Collective.

    Args:
        job: What is to be trained; `train.zero` is a number.
        world: The ranks.
        classes: Of the dataset.
        load: Returns this rank's first micro-batch of the largest planned step of a job.

    Raises:
        ConfigError: Not even the smallest micro-batch fits.
    """
    if not job.train.auto_batch:
        return job
    splits = list_splits(job, world.size)
    kind = MeasuredTrial if world.device.type == "cuda" else CountedTrial
    trial: Trial = kind(job, world, classes)
    limit, needed = USABLE * device_memory(world), dict[int, float | None]()

    def fits(place: int) -> bool:
        batch = load(override(job, {"train.accumulation": splits[place].accumulation}))
        needed[place] = size = trial.needed(batch)
        return size is not None and size <= limit

    place = world.broadcast(max(world.gather(first_fitting(len(splits), fits)), default=0))
    if place == len(splits):
        raise ConfigError(_explain(splits[-1], needed, limit, trial))
    chosen = splits[place]
    if world.main:
        size = needed.get(place)
        room = "another rank has less room" if size is None else f"{size / GIB:.2f} of {limit / GIB:.2f} GiB"
        print(
            f"--train.auto-batch: {chosen.images} at a time in each of {world.size} workers, {chosen.passes} "
            f"passes per step ({trial.how} {room}); --train.accumulation {chosen.accumulation} says the same",
            flush=True,
        )
    return override(job, {"train.accumulation": chosen.accumulation})


def _explain(least: Split, needed: dict[int, float | None], limit: float, trial: Trial) -> str:
    size = next((size for _, size in sorted(needed.items(), reverse=True) if size is not None), None)
    asked = "more than there is" if size is None else f"{size / GIB:.2f} GiB"
    return (
        f"--train.auto-batch: the smallest split, {least.passes} passes per step of {least.images} images, "
        f"takes {asked} ({trial.how} against {limit / GIB:.2f} GiB): take smaller images with "
        "--data.augment.max-size, more workers, or --train.activation-checkpointing"
    )
