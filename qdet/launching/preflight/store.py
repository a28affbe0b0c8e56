"""Check, before workers start, that the store can take a run."""

import secrets
import shutil

import torch

from qdet.checkpoint import RunFolder, open_folder
from qdet.detectors.complexity import count_parameters
from qdet.errors import CheckpointError, ConfigError
from qdet.job import Job
from qdet.launching.runs.record import full_name
from qdet.training.freeze import freeze
from qdet.training.loop import retention

GIB = 2**30


def check(job: Job, *, classes: int, per_epoch: int | None, steps: int | None) -> None:
    """Raise unless the store of `job` can be written to and has room for the checkpoints that it keeps.

    Args:
        job: A job with absolute paths.
        classes: Of the detector, whose size is what a checkpoint's follows from.
        per_epoch: Steps of an epoch; None where only workers know them.
        steps: Of the whole training; None where only workers know them.

    Raises:
        ConfigError: It cannot; the message says what to change.
    """
    _check_writable(job.store.path)
    _check_room(job, checkpoint_bytes(job, classes), count_checkpoints(job, per_epoch, steps))


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


def count_checkpoints(job: Job, per_epoch: int | None, steps: int | None) -> int:
    """Return how many checkpoints a run of `job` has at most at a time, as its retention says."""
    train, kept = job.train, retention(job, per_epoch or 0)
    if per_epoch is None or steps is None:
        return kept.most(None)
    every = [train.checkpoint_every, train.keep_every * per_epoch]
    every += [train.eval_every * per_epoch] if train.keep_best else []
    saved = {step for one in every if one > 0 for step in range(one, steps + 1, one)}
    return kept.most(saved | {steps})


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


def _check_room(job: Job, each: int, count: int) -> None:
    """Compare the room of a local store, and of the run's checkpoints there, with what checkpoints take."""
    local = open_folder(job.store.path).local
    if local is None:
        return
    name = job.store.run if job.store.resume in (None, "auto") else job.store.resume
    free = shutil.disk_usage(local).free
    room, needed = free + (_taken(job.store.path, name) if name else 0), each * count
    if room < needed:
        raise ConfigError(
            f"--store.path {job.store.path} has {free / GIB:.2f} GiB left, and a run of this job has up to "
            f"{count} checkpoint{'s' if count > 1 else ''} at a time: {needed / GIB:.2f} GiB. Free some "
            "space, give another folder, or change --train.keep-checkpoints, --train.keep-best or "
            "--train.keep-every"
        )


def _taken(store: str, name: str) -> int:
    """Bytes of the checkpoints that a run has already, in whose place later ones come."""
    run = RunFolder(open_folder(store).child(full_name(store, name)))
    return sum(sum(run.at(step).sizes().values()) for step in run.steps())
