"""What a run leaves in its store besides checkpoints, so that it can be found and resumed.

    <store>/<run name>/run.json        written before the first worker starts
    <store>/<run name>/step_000300/    checkpoints, written by the workers

The store is a folder or a URL.
"""

import json
import secrets
import time
from dataclasses import asdict, dataclass
from typing import NamedTuple

from qdet.checkpoint import open_folder
from qdet.errors import CheckpointError, ConfigError, did_you_mean
from qdet.job import Job
from qdet.storage import Folder

RECORD = "run.json"


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What must be known of a run to resume it."""

    name: str
    mlflow_run_id: str | None
    tracking_uri: str


def new_name(job: Job) -> str:
    """Return a name that no other run has: the job's, the time, eight random letters.

    Ray Train silently continues a run whose name it finds in the store, so a name must never come twice.
    """
    return f"{job.name}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(4)}"


class Choice(NamedTuple):
    """The run that a job is."""

    name: str
    resumed: RunRecord | None
    """What its store has of it; None of a new run."""


def choose(job: Job, *, name: str | None = None) -> Choice:
    """Return the run that `job` asks for, with its record where that is resumed.

    Args:
        job: Its `store.run` and `store.resume` decide.
        name: Name of the run where the job gives none. If the store has that run, it is resumed: torchrun or
            a sweep has started it again.

    Raises:
        ConfigError: The run to resume is not there, or the name of a new one is taken.
    """
    store = job.store
    if store.resume == "auto" or (name and not store.run and not store.resume):
        wanted = store.run or name or ""
        return Choice(wanted, read(store.path, wanted) if exists(store.path, wanted) else None)
    if store.resume:
        return Choice(store.resume, read(store.path, store.resume))
    if store.run and exists(store.path, store.run):
        raise ConfigError(
            f"--store.run {store.run}: --store.path {store.path} has a run of that name. Resume it with "
            f"--store.resume {store.run}, or give another name"
        )
    return Choice(store.run or new_name(job), None)


def exists(store: str, name: str) -> bool:
    """Whether the store has a run of that name."""
    return _open(store).child(name).size(RECORD) is not None


def write(store: str, record: RunRecord) -> None:
    """Put `record` into the run's folder in the store, which this makes."""
    try:
        _open(store).child(record.name).put(RECORD, json.dumps(asdict(record), indent=2).encode())
    except OSError as error:
        raise ConfigError(f"--store.path {store}: cannot be written to ({error})") from error


def read(store: str, name: str) -> RunRecord:
    """Return the record of the run `name`.

    Raises:
        ConfigError: No such run is in the store; the message lists those that are.
    """
    folder = _open(store)
    names = _names(folder)
    if name not in names:
        hint = did_you_mean(name, names)
        there = ", ".join(names[-5:]) or "none"
        raise ConfigError(
            f"--store.resume {name}: no such run in --store.path {store}.{hint} Latest runs: {there}"
        )
    try:
        return RunRecord(**json.loads(folder.child(name).read(RECORD)))
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(
            f"--store.path {store}: {name}/{RECORD} cannot be read ({error}); restore it from a backup, or "
            f"give the run another name and start it from a checkpoint of {name} by --store.init-from"
        ) from error


def _names(store: Folder) -> list[str]:
    """Names of the runs that are there, the latest last."""
    found = [name for name in store.folders() if store.child(name).size(RECORD) is not None]
    return sorted(found, key=lambda name: store.child(name).modified(RECORD))


def _open(store: str) -> Folder:
    try:
        return open_folder(store)
    except CheckpointError as error:
        raise ConfigError(f"--store.path {error}") from error
