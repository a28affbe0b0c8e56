"""Whether a job, its shards, its ranks and its last checkpoint fit each other."""

from pathlib import Path

from qdet.data.shards import ShardSet
from qdet.errors import CheckpointError, ConfigError
from qdet.job import Job
from qdet.training.checkpoint import TrainState


def check_world(job: Job, size: int) -> None:
    """Raise unless `size` ranks can share the job's global batch."""
    if job.train.batch_size % (size * job.train.accumulation):
        raise ConfigError(
            f"--train.batch-size {job.train.batch_size} must split evenly over {size} workers times "
            f"--train.accumulation {job.train.accumulation}"
        )


def check_categories(train: ShardSet, val: ShardSet) -> None:
    """Raise unless both sets of shards have the same classes."""
    if train.categories != val.categories:
        only = set(train.categories.names) ^ set(val.categories.names)
        raise ConfigError(
            "--data.train and --data.val have different categories"
            + (f"; only one of them has {', '.join(sorted(only))}" if only else ": their ids differ")
        )


def check_unchanged(state: TrainState, job: Job, digest: str, folder: Path) -> None:
    """Raise where a job changed what the data order of the checkpoint in `folder` rests on."""
    changed = [
        f"{what} is {now}, it was {then}"
        for what, now, then in (
            ("--train.seed", job.train.seed, state.seed),
            ("--train.batch-size", job.train.batch_size, state.batch_size),
            ("the digest of --data.train", digest, state.data_digest),
        )
        if now != then
    ]
    if changed:
        raise CheckpointError(
            f"cannot go on from {folder}: {'; '.join(changed)}. Change it back, or start a new run from "
            "those weights with --store.init-from"
        )
