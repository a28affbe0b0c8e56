"""What must be true before a job may start, checked before any worker does."""

from qdet.checkpoint import RunFolder, open_folder
from qdet.checkpoint.manifest import MANIFEST
from qdet.data.plan.epoch import steps_per_epoch
from qdet.errors import ConfigError
from qdet.launching.paths import is_url
from qdet.launching.preflight import store
from qdet.launching.preflight.dry_run import COCO_CLASSES
from qdet.launching.runs.prepared import Prepared
from qdet.tracking.loggers import check_installed


def check(prepared: Prepared) -> None:
    """Raise what would otherwise only come up once workers, sockets and weights are in place.

    Raises:
        ConfigError: A flag names something that is not there or cannot be used.
    """
    job, train, val = prepared.job, prepared.train, prepared.val
    if train.categories and val.categories and train.categories != val.categories:
        raise ConfigError(
            f"--data.train {job.data.train} and --data.val {job.data.val} do not have the same categories"
        )
    if train.images is not None:
        steps_per_epoch(train.images, job.train.batch_size, job.data.tail)
    check_installed(job.track.loggers)
    start = job.store.init_from
    if start and not is_url(start):
        _check_start(start)
    if start and job.store.resume:
        raise ConfigError(
            "--store.init-from starts a new run and --store.resume continues an old one; give one of them"
        )
    classes = COCO_CLASSES if train.categories is None else len(train.categories)
    store.check(job, digest=train.digest, classes=classes)


def _check_start(start: str) -> None:
    """Raise unless a checkpoint is in the folder; whether its bytes are good is seen when they are read."""
    folder = open_folder(start)
    if steps := RunFolder(folder).steps():
        newest = RunFolder(folder).at(steps[-1])
        raise ConfigError(
            f"--store.init-from {start} holds a run: give one of its checkpoints, such as {newest}"
        )
    if folder.size(MANIFEST) is None:
        raise ConfigError(f"--store.init-from {start}: no checkpoint there (a folder with a {MANIFEST})")
