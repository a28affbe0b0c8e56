"""Check, before workers start, that the store can take a run and that the run to resume can be resumed."""

import secrets
import shlex
import shutil
from pathlib import Path

import torch

from qdet.checkpoint import RunFolder, open_folder
from qdet.checkpoint.reading import newest
from qdet.detectors.complexity import count_parameters
from qdet.errors import CheckpointError, ConfigError
from qdet.job import Job
from qdet.launching.runs import record
from qdet.training.checkpointing.compatibility import check_unchanged
from qdet.training.freeze import freeze

GIB = 2**30


def check(job: Job, *, digest: str | None, classes: int) -> None:
    """Raise unless the store of `job` can be written to, has room, and holds the run that the job resumes.

    Args:
        job: A job with absolute paths.
        digest: Of its training shards; None where only workers see them.
        classes: Of the detector, whose size is what a checkpoint's follows from.

    Raises:
        ConfigError: It cannot; the message says what to change.
    """
    _check_writable(job.store.path)
    _check_room(job, classes)
    name = job.store.run if job.store.resume in (None, "auto") else job.store.resume
    if name is not None:
        _check_run(job, name, digest)


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


def _check_run(job: Job, name: str, digest: str | None) -> None:
    """Raise where the folder of the run holds what is not that run's, or another job's."""
    run = RunFolder(open_folder(job.store.path).child(name))
    local = run.folder.local
    if local is not None and local.exists() and not local.is_dir():
        raise ConfigError(f"--store.run {name}: {local} is a file; remove it or give another name")
    recorded = record.exists(job.store.path, name)
    if not recorded:
        if run.steps():
            raise ConfigError(
                f"--store.run {name}: {run.folder} holds checkpoints and no {record.RECORD}, so they are not "
                "known to be this run's; give another name, or start from one of them by --store.init-from"
            )
        return
    said = record.read(job.store.path, name).name
    if said != name:
        raise ConfigError(
            f"{run.folder} holds the run {said}, as its {record.RECORD} says: move it to "
            f"{Path(job.store.path) / said} and resume it with --store.resume {shlex.quote(said)}"
        )
    last = newest(run) if job.store.resume else None
    if last is not None:
        try:
            check_unchanged(last, job, digest)
        except CheckpointError as error:
            raise ConfigError(f"--store.resume: {error}") from error
