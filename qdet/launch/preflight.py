"""What must be true before a job may start, checked where the user sees the answer at once."""

from qdet.checkpoint import Folder, RunFolder
from qdet.checkpoint.manifest import MANIFEST
from qdet.data.plan import steps_per_epoch
from qdet.data.shards import ShardSet
from qdet.errors import ConfigError, DataError
from qdet.job import Job
from qdet.launch import store
from qdet.launch.describe import COCO_CLASSES
from qdet.launch.paths import is_url


def check(job: Job) -> None:
    """Raise what would otherwise only come up once workers, sockets and weights are in place.

    `job` is one with absolute paths, as `paths.resolve` returns it.

    Raises:
        ConfigError: A flag names something that is not there or cannot be used.
    """
    train = _open("train", job.data.train, job)
    val = _open("val", job.data.val, job)
    if train is not None and val is not None and train.categories != val.categories:
        raise ConfigError(
            f"--data.train {job.data.train} and --data.val {job.data.val} do not have the same categories"
        )
    if train is not None:
        steps_per_epoch(len(train), job.train.batch_size, job.data.tail)
    start = job.store.init_from
    if start and not is_url(start):
        _check_start(start)
    if start and job.store.resume:
        raise ConfigError(
            "--store.init-from starts a new run and --store.resume goes on with an old one; give one of them"
        )
    digest = None if train is None else train.digest
    store.check(job, digest=digest, classes=COCO_CLASSES if train is None else len(train.categories))


def _check_start(start: str) -> None:
    """Raise unless a checkpoint is in the folder; whether its bytes are good is seen when they are read."""
    folder = Folder.open(start)
    if steps := RunFolder(folder).steps():
        newest = RunFolder(folder).at(steps[-1])
        raise ConfigError(
            f"--store.init-from {start} holds a run: give one of its checkpoints, such as {newest}"
        )
    if folder.size(MANIFEST) is None:
        raise ConfigError(f"--store.init-from {start}: no checkpoint there (a folder with a {MANIFEST})")


def _open(split: str, path: str, job: Job) -> ShardSet | None:
    """Open a split, or None where it lies behind a URL that only workers need to reach."""
    if is_url(path):
        return None
    try:
        return job.data.open(path)
    except DataError as error:
        raise ConfigError(f"--data.{split}: {error}") from error
