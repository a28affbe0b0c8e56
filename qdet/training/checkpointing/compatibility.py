"""Whether a job, its shards, its ranks and its last checkpoint fit together."""

from qdet.changes import Change, changes, describe_allowed_changes
from qdet.checkpoint import Checkpoint
from qdet.checkpoint.reading import Peek
from qdet.data.plan.epoch import PLAN_VERSION
from qdet.data.shards.protocol import Dataset
from qdet.errors import CheckpointError, ConfigError
from qdet.job import Job


def check_world(job: Job, size: int) -> None:
    """Raise unless the job allows `size` ranks."""
    least, most = job.train.least_workers, job.train.most_workers
    if not least <= size <= most:
        raise ConfigError(f"--train.workers {job.train.workers}, but {size} processes were started")


def check_categories(train: Dataset, val: Dataset) -> None:
    """Raise unless both sets of shards have the same classes."""
    if train.categories != val.categories:
        only = set(train.categories.names) ^ set(val.categories.names)
        raise ConfigError(
            "--data.train and --data.val have different categories"
            + (f"; only one of them has {', '.join(sorted(only))}" if only else ": their ids differ")
        )


def check_unchanged(saved: Checkpoint | Peek, job: Job, digest: str | None) -> tuple[Change, ...]:
    """Compare a job with the one that wrote the checkpoint it resumes from.

    Args:
        saved: The checkpoint.
        job: The job that resumes from it.
        digest: Of the training shards; None if they cannot be read from here.

    Returns:
        The differences that are allowed but change what is learned.

    Raises:
        CheckpointError: Something has changed that the checkpoint or the data order depends on.
    """
    found = changes(saved.job, job)
    refused = [str(change) for change in found.refused]
    for name, now in (("seed", job.train.seed), ("batch_size", job.train.batch_size)):
        then = getattr(saved.state, name)
        if then != now and all(change.path != f"train.{name}" for change in found.refused):
            refused.append(f"--train.{name.replace('_', '-')} is {now}, it was {then}")
    if digest is not None and digest != saved.state.data_digest:
        refused.append(f"the digest of --data.train is {digest}, it was {saved.state.data_digest}")
    if saved.state.plan_version != PLAN_VERSION:
        refused.append(
            f"this qdet orders and augments images by version {PLAN_VERSION} of its plan, the run started "
            f"with version {saved.state.plan_version}: use the qdet that it started with"
            + (f" (commit {saved.state.git_commit})" if saved.state.git_commit else "")
        )
    if refused:
        raise CheckpointError(
            f"cannot resume from {saved.folder}: {'; '.join(refused)}. Change it back, or start a new run "
            f"from those weights with --store.init-from. {describe_allowed_changes()}"
        )
    return found.learning
