"""The batches that a job trains on: read by offset along a plan, or sequentially without one."""

import numpy as np

from qdet.data.loading.planned_stream import TrainStream
from qdet.data.loading.sequential_stream import SequentialStream
from qdet.data.loading.stream_config import StreamConfig
from qdet.data.shards.report import describe_objects
from qdet.data.shards.sequential_set import SequentialSet
from qdet.data.shards.shard_set import ShardSet
from qdet.detectors import denoising_of
from qdet.errors import ConfigError
from qdet.job import Job
from qdet.storage.urls import is_url
from qdet.tracking import Tracker
from qdet.training.accounting import Accounting, ImageCounts
from qdet.training.distributed import World
from qdet.types import Batch

Stream = TrainStream | SequentialStream
MOST_PLANNED = 200_000
"""Images that are planned to find the largest batch."""


def build_stream(job: Job, shards: ShardSet | SequentialSet, world: World) -> Stream:
    """Return this rank's stream of training batches."""
    config = StreamConfig(
        batch_size=job.train.batch_size,
        seed=job.train.seed,
        rank=world.rank,
        world_size=world.size,
        accumulation=job.train.passes(world.size),
        tail=job.data.tail,
        pad=job.data.pad,
        max_bad=job.data.max_bad,
        readers=job.data.readers,
        reader_kind=job.data.reader_kind,
        prefetch=job.data.prefetch,
        denoising=denoising_of(job.detector),
        device=world.device,
    )
    if isinstance(shards, SequentialSet):
        return SequentialStream(shards, job.data.augment, config, shuffle=job.data.shuffle_buffer)
    return TrainStream(shards, job.data.augment, config, by_size=job.data.by_size)


def load_largest(job: Job, *, shards: ShardSet | SequentialSet, world: World) -> Batch:
    """Return this rank's first micro-batch of the planned step with most padded pixels.

    As many epochs are looked at as have 200,000 images, all of them in a smaller run.

    Raises:
        ConfigError: The job reads sequentially, without a plan.
    """
    stream = build_stream(job, shards, world)
    if not isinstance(stream, TrainStream):
        raise ConfigError("--data.reading sequential has no plan of which a step could be the largest")
    each = stream.steps_per_epoch
    steps = job.train.steps or job.train.epochs * each
    looked_at = min(steps, each * max(1, MOST_PLANNED // stream.order.samples))
    pixels = [step.padded_hw[0] * step.padded_hw[1] for step in stream.order.steps(0, looked_at)]
    largest = int(np.argmax(pixels))
    [[first, *_]] = stream.steps(largest, largest + 1)
    return first


def warn_of_missing_objects(train: ShardSet | SequentialSet, val: ShardSet) -> None:
    """Print a warning for sets without objects that only workers could scan; the driver names the others."""
    for flag, shards in (("--data.train", train), ("--data.val", val)):
        if isinstance(shards, ShardSet) and is_url(shards.source) and "image_ids" in shards.manifest:
            address = f"{flag} {shards.source}"
            warning = describe_objects(shards.objects, address, training=flag == "--data.train")
            if warning is not None:
                print(warning, flush=True)


def build_accounting(
    stream: Stream, world: World, tracker: Tracker, *, step: int
) -> Accounting | ImageCounts:
    """Return what counts the images of `stream` from `step` on, against its plan if it has one."""
    if isinstance(stream, TrainStream):
        return Accounting(stream.order, world, tracker, step=step)
    return ImageCounts(stream.steps_per_epoch, world, tracker, step=step)
