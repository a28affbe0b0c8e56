"""Check, before workers start, that the store can take a run."""

import secrets
import shutil

import torch

from qdet.checkpoint import open_folder
from qdet.detectors.complexity import count_parameters
from qdet.errors import CheckpointError, ConfigError
from qdet.job import Job
from qdet.training.freeze import freeze

GIB = 2**30


def check(job: Job, *, classes: int) -> None:
    """Raise unless the store of `job` can be written to and has room.

    Args:
        job: A job with absolute paths.
        classes: Of the detector, whose size is what a checkpoint's follows from.

    Raises:
        ConfigError: It cannot; the message says what to change.
    """
    _check_writable(job.store.path)
    _check_room(job, classes)


def checkpoint_bytes(job: Job, classes: int) -> int:
    """Return what a checkpoint of `job` takes: weights, their average and two moments, all in fp32.

    Raises:
        ConfigError: `train.freeze` names nothing of its detector.
    """
    with torch.device("meta"):  # shapes without numbers
        detector = job.detector.build(classes)
    freeze(detector, job.train.freeze)
    trained = count_parameters(detector, trainable=True)
    return 4 * (count_parameters(detector) + trained * (3 if job.optim.ema_decay > 0 else 2))


def _check_writable(store: str) -> None:
    """Write, read and remove a small file."""
    name, content = f".qdet-{secrets.token_hex(4)}", b"can this be read back?"
    try:
        folder = open_folder(store)
        folder.put(name, content)
        same = folder.read(name) == content
        folder.remove(name)
    except CheckpointError as error:
        raise ConfigError(f"--store.path {error}") from error
    except Exception as error:  # every kind of store has errors of its own
        raise ConfigError(
            f"--store.path {store} cannot be written to ({type(error).__name__}: {error}); "
            "see to its rights and its disk, or give another folder"
        ) from error
    if not same:
        raise ConfigError(f"--store.path {store} does not give back what is written to it")


def _check_room(job: Job, classes: int) -> None:
    """Compare the free space of a local store with what checkpoints take at most at a time."""
    local = open_folder(job.store.path).local
    if local is None:
        return
    free, needed = shutil.disk_usage(local).free, checkpoint_bytes(job, classes)
    if free < needed:
        raise ConfigError(
            f"--store.path {job.store.path} has {free / GIB:.2f} GiB left, and one checkpoint of this job "
            f"takes {needed / GIB:.2f}; free some space or give another folder"
        )
