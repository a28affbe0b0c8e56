"""What a run leaves in its store besides checkpoints, so that it can be found and resumed.

    <store>/<run name>/run.json        written before the first worker starts
    <store>/<run name>/step_000300/    checkpoints, written by the workers

The store is a folder or a URL.
"""

import hashlib
import json
import random
import secrets
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

from qdet.checkpoint import open_folder
from qdet.checkpoint.run_names import RECORD, find_run, list_runs
from qdet.errors import CheckpointError, ConfigError, QdetError, did_you_mean
from qdet.job import Job, explain_bad_name
from qdet.launching.paths import has_spool
from qdet.launching.runs import words
from qdet.storage import Folder
from qdet.storage.parsing import parse_json_object

STOPPED_EARLY = "stopped early"
"""Status of a run that its sweep has stopped, so that its driver's end is no accident."""
SWEEP = "sweep.json"
"""File of a sweep that says which it is."""
_PLAIN, _ATTEMPTS = 20, 200
"""Draws of two words, after which a number is added, and draws at all."""


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What must be known of a run to resume it."""

    name: str
    mlflow_run_id: str | None
    tracking_uri: str
    job: str | None = None
    """Name of its job; None in records of earlier versions, as in the two below."""
    started: str | None = None
    """When it was first started: ISO 8601, in UTC."""
    hash: str | None = None
    """Eight hexadecimal digits, which tell runs of one name in different stores apart."""
    status: str | None = None
    """`running`, `finished`, `stopped` by a signal, `stopped early` by its sweep, `failed` or `killed`.

    None in earlier versions' records.

    A run whose machine lost power stays `running` until it is resumed.
    """
    val_digest: str | None = None
    """Digest of the validation set that it was last evaluated on; None where that is not known."""

    @classmethod
    def new(cls, choice: "Choice", job: Job, *, mlflow_run_id: str | None, tracking_uri: str) -> "RunRecord":
        """Return the record of a run that starts now."""
        return cls(
            name=choice.name,
            mlflow_run_id=mlflow_run_id,
            tracking_uri=tracking_uri,
            job=job.name,
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            hash=choice.hash,
        )


def claim_name(job: Job, *, rng: random.Random | None = None) -> str:
    """Return a name that no other run of the store has, and make its folder: the job's name and two words.

    Ray Train silently continues a run whose name it finds in the store, so a name must never come twice.
    Words are drawn rather than counted: drivers that start at once hardly ever draw the same ones, and an old
    name is not used again when its folder is removed.

    Args:
        job: Its name and its store.
        rng: Draws the words; by default from the system's randomness.

    Raises:
        ConfigError: The store cannot be written to.
    """
    rng, store = rng or random.SystemRandom(), _open(job.store.path)
    try:
        for attempt in range(_ATTEMPTS):
            name = f"{job.name}-{words.draw(rng)}" + (
                f"-{rng.randrange(2, 100)}" if attempt >= _PLAIN else ""
            )
            check_name(name)
            if not has_spool(name) and store.claim(name):
                return name
    except OSError as error:
        raise ConfigError(f"--store.path {job.store.path}: cannot be written to ({error})") from error
    raise ConfigError(f"--store.path {job.store.path} has no name left for {job.name}: give --store.run NAME")


def check_name(name: str) -> str:
    """Return the name of a run, unless it cannot have that; raise ConfigError then."""
    if why := explain_bad_name(name):
        raise ConfigError(
            f"a run cannot be named {name[:80]!r}: it {why}; give it another by --store.run NAME"
        )
    return name


class Choice(NamedTuple):
    """The run that a job is."""

    name: str
    resumed: RunRecord | None
    """What its store has of it; None of a new run."""
    hash: str | None = None
    """Tells it from runs of the same name in other stores; None of runs of earlier versions."""


def hash_name(name: str) -> str:
    """Return the hash of a run whose name was given, which all of its processes know by themselves."""
    return hashlib.sha256(name.encode()).hexdigest()[:8]


def choose(job: Job, *, name: str | None = None, hash: str | None = None) -> Choice:
    """Return the run that `job` asks for, with its record where that is resumed.

    Args:
        job: Its `store.run` and `store.resume` decide.
        name: Name of the run where the job gives none. If the store has that run, it is resumed: torchrun or
            a sweep has started it again.
        hash: Of a new run of that name; by default it follows from the name.

    Raises:
        ConfigError: The run to resume is not there, or the name of a new one is taken.
    """
    store = job.store
    if store.resume == "auto" or (name and not store.run and not store.resume):
        wanted = check_name(store.run or name or "")
        known = read(store.path, wanted) if exists(store.path, wanted) else None
        return Choice(wanted, known, known.hash if known else hash or hash_name(wanted))
    if store.resume:
        wanted = full_name(store.path, store.resume)
        known = read(store.path, wanted)
        return Choice(wanted, known, known.hash)
    if store.run and exists(store.path, store.run):
        raise ConfigError(
            f"--store.run {store.run}: --store.path {store.path} has a run of that name. Resume it with "
            f"--store.resume {store.run}, or give another name"
        )
    if store.run:
        _refuse_sweep(store.path, store.run)
        return Choice(store.run, None, hash_name(store.run))
    return Choice(claim_name(job), None, secrets.token_hex(4))


def _refuse_sweep(store: str, name: str) -> None:
    if _open(store).child(name).size(SWEEP) is not None:
        raise ConfigError(
            f"--store.run {name}: --store.path {store} has a sweep of that name. Resume it by "
            "--sweep, or give the run another name"
        )


def set_status(store: str, name: str, status: str) -> None:
    """Record how a run is doing, if its store can be written to: training matters more."""
    with suppress(QdetError, OSError):
        write(store, replace(read(store, name), status=status))


def status(store: str, name: str) -> str | None:
    """Return how a run is doing by its record; None without one."""
    with suppress(QdetError, OSError):
        return read(store, name).status
    return None


def exists(store: str, name: str) -> bool:
    """Whether the store has a run of that name."""
    return _open(store).child(name).size(RECORD) is not None


def write(store: str, record: RunRecord) -> None:
    """Put `record` into the run's folder in the store, which this makes."""
    folder = _open(store).child(record.name)
    try:
        folder.put(RECORD, json.dumps(asdict(record), indent=2).encode())
        folder.remove_claim()
    except OSError as error:
        raise ConfigError(f"--store.path {store}: cannot be written to ({error})") from error


def full_name(store: str, name: str) -> str:
    """Return the name of the run of the store that `name` is, begins, or begins the last words of.

    Raises:
        ConfigError: `name` names several runs.
    """
    return find_run(_open(store), name) or name


def read(store: str, name: str) -> RunRecord:
    """Return the record of the run `name`, of which the beginning is enough.

    Raises:
        ConfigError: No such run is in the store, or several; the message lists them.
    """
    folder = _open(store)
    given, name = name, full_name(store, name)
    if folder.child(name).size(RECORD) is None:
        names = _names(folder)
        hint = did_you_mean(given, names)
        there = ", ".join(names[-5:]) or "none"
        raise ConfigError(
            f"--store.resume {given}: no such run in --store.path {store}.{hint} Latest runs: {there}"
        )
    try:  # what a later version has added is left out
        return msgspec.convert(parse_json_object(folder.child(name).read(RECORD)), RunRecord)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"--store.path {store}: {name}/{RECORD} cannot be read ({error}); restore it from a backup, or "
            f"give the run another name and start it from a checkpoint of {name} by --store.init-from"
        ) from error


def _names(store: Folder) -> list[str]:
    """Names of the runs that are there, the latest last."""
    found = [name for name in list_runs(store) if store.child(name).size(RECORD) is not None]
    return sorted(found, key=lambda name: store.child(name).modified(RECORD))


def _open(store: str) -> Folder:
    try:
        return open_folder(store)
    except CheckpointError as error:
        raise ConfigError(f"--store.path {error}") from error
