"""Check, before workers start, that the folder of a run is that run's, and that the job can resume it."""

import shlex
from pathlib import Path

from qdet.checkpoint import RunFolder, open_folder
from qdet.checkpoint.reading import newest
from qdet.errors import CheckpointError, ConfigError
from qdet.job import Job
from qdet.launching.runs import record
from qdet.training.checkpointing.compatibility import check_unchanged


def check_run(job: Job, *, digest: str | None, steps: int | None) -> None:
    """Raise where the folder of the run that `job` names holds what is not that run's, or another job's.

    Args:
        job: A job with absolute paths.
        digest: Of its training shards; None where only workers see them.
        steps: Of its whole training; None where only workers know them.

    Raises:
        ConfigError: It does; the message says what to change.
    """
    name = job.store.run if job.store.resume in (None, "auto") else job.store.resume
    if name is None:
        return
    run = RunFolder(open_folder(job.store.path).child(name))
    _check_folder(job, name, run)
    if not (job.store.resume and record.exists(job.store.path, name)):
        return
    try:
        last = newest(run)
        if last is not None:
            check_unchanged(last, job, digest)
    except CheckpointError as error:
        raise ConfigError(f"--store.resume: {error}") from error
    if last is not None and steps is not None:
        _check_steps(job, name, steps=steps, done=last.state.step)


def _check_folder(job: Job, name: str, run: RunFolder) -> None:
    local = run.folder.local
    if local is not None and local.exists() and not local.is_dir():
        raise ConfigError(f"--store.run {name}: {local} is a file; remove it or give another name")
    if not record.exists(job.store.path, name):
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


def _check_steps(job: Job, name: str, *, steps: int, done: int) -> None:
    """Raise where a run has more steps behind it than its training is to have."""
    if steps < done:
        flag = f"--train.steps {steps}" if job.train.steps else f"--train.epochs {job.train.epochs}"
        means = "" if job.train.steps else f", which is {steps} steps"
        raise ConfigError(
            f"{flag}{means}: {name} has trained {done} steps already; give as many or more, or start a new "
            "run from one of its checkpoints by --store.init-from"
        )
