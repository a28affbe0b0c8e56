"""What is trained to reproduce a run: its job from its record, on the same data, in a place of its own."""

import socket
from dataclasses import dataclass, replace
from typing import Any

import torch

from qdet.config import override, restore
from qdet.data.shards.protocol import Dataset
from qdet.errors import ConfigError, DataError, QdetError
from qdet.job import Job
from qdet.launching.reproducing.differences import Here, check_plan
from qdet.masking import MASK, mask
from qdet.storage import Folder
from qdet.storage.urls import is_pipe, is_url
from qdet.training.beginning.conditions import observe_conditions
from qdet.training.beginning.record import FILE, Beginning, read_beginning
from qdet.training.beginning.same_data import SHOWN, identify

STEPS = 20
"""Steps that are trained again unless it is said."""
QUIET: dict[str, Any] = {
    "eval.pictures": 0,
    "eval.sanity": False,
    "track.loggers": (),
    "track.system_metrics": False,
    "train.checkpoint_every": 10**9,
    "train.early_stopping": 0,
    "train.eval_every": 0,
    "train.exclude_bad_hosts": False,
    "train.hours": None,
    "train.keep_best": 0,
    "train.keep_every": 0,
    "train.log_every": 1,
    "train.pause_after": None,
    "train.verify_every": 0,
}
"""Settings that change no loss, and do here what a short training needs."""
_OF_THE_RUN = ("store.path", "store.run", "store.resume", "store.take_over")


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a user asks for."""

    steps: int | None = None
    """By default `STEPS`, or all that are recorded where those are fewer."""
    workers: int | None = None
    """By default as many as the run had, or the GPUs of this machine where those are fewer."""
    train: str | None = None
    """Where the training shards are; by default where they were."""
    val: str | None = None
    """Where the validation shards are; by default where they were."""
    trust: bool = False
    """Open the URLs that a record behind a URL names."""

    @property
    def data(self) -> dict[str, str | None]:
        """Where shards are, by setting; None where that is not said."""
        return {"data.train": self.train, "data.val": self.val}


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """A run to be reproduced."""

    recorded: Beginning
    job: Job
    steps: int
    here: Here


def plan_reproduction(folder: Folder, request: Request) -> Reproduction:
    """Return how the first steps of the run in `folder` are trained again, with their own data.

    Raises:
        StorageError: Its record is damaged.
        ConfigError: It has none, or not of so many steps; or data, plan or settings cannot be had here.
    """
    recorded = read_beginning(folder)
    if recorded is None:
        raise ConfigError(
            f"{folder} has no {FILE}: an earlier version of qdet trained this run, or it ended in its first "
            "step"
        )
    steps = _count_steps(folder, recorded, request.steps)
    check_plan(recorded)
    job = _restore_job(folder, recorded, request)
    conditions = observe_conditions(torch.device("cuda" if job.train.accelerator == "gpu" else "cpu"))
    if job.train.accelerator == "cpu":
        conditions = replace(conditions, threads=job.train.cpus_per_worker)
    _check_data(recorded, job)
    here = Here(conditions=conditions, host=socket.gethostname(), ranks=int(job.train.workers))
    return Reproduction(recorded=recorded, job=job, steps=steps, here=here)


def _count_steps(folder: Folder, recorded: Beginning, asked: int | None) -> int:
    known = len(recorded.losses)
    if known == 0:
        raise ConfigError(f"{folder}/{FILE} holds no loss: the run ended in its first step")
    if asked is None:
        return min(STEPS, known)
    if not 1 <= asked <= known:
        raise ConfigError(f"--steps {asked}: losses of steps 1 to {known} are recorded in {folder}/{FILE}")
    return asked


def _restore_job(folder: Folder, recorded: Beginning, request: Request) -> Job:
    flat = {path: value for path, value in recorded.job.items() if path not in _OF_THE_RUN}
    flat |= {"data.allow_pipes": ()}
    if folder.local is None and not request.trust:
        flat |= {"data.allow_hosts": ()}  # nor may it open other hosts to the shards that the user names
    flat |= {
        path: given for path, given in (("data.train", request.train), ("data.val", request.val)) if given
    }
    _check_addresses(folder, flat, request)
    on_gpus = recorded.conditions.device == "cuda" and torch.cuda.is_available()
    most = min(recorded.ranks, torch.cuda.device_count()) if on_gpus else recorded.ranks
    workers = most if request.workers is None else request.workers
    if workers < 1:
        raise ConfigError(f"--workers must be at least 1, got {workers}")
    changes = {"train.workers": workers, "train.accelerator": "gpu" if on_gpus else "cpu"}
    try:
        return override(restore(Job, flat), QUIET | changes)
    except ConfigError as error:
        commit = recorded.conditions.commit
        raise ConfigError(
            f"{folder}/{FILE}: {error}" + (f"; it was trained by commit {commit[:40]}" if commit else "")
        ) from error
    except (TypeError, ValueError, KeyError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{folder}/{FILE} holds settings of no job: {str(error)[:200]}") from error


def _check_addresses(folder: Folder, flat: dict[str, Any], request: Request) -> None:
    """Refuse commands, masked addresses, and what a record behind a URL would have this machine open."""
    given = request.data
    texts = {path: value for path, value in flat.items() if isinstance(value, str)}
    for path, value in texts.items():
        if path in given and any(is_pipe(part) for part in value.split("::")):
            raise ConfigError(f"--{_flag(path)} {value}: commands of a record are not run; give shards")
        if path in given and MASK in value:
            raise ConfigError(
                f"{folder}/{FILE} has --{path} without its secrets ({value}): give --{_flag(path)} with them"
            )
        if folder.local is None and not request.trust and is_url(value) and not given.get(path):
            raise ConfigError(
                f"{folder}/{FILE} is not of this machine and names {mask(value)} ({path}); if you trust it, "
                "give --trust"
            )


def _check_data(recorded: Beginning, job: Job) -> None:
    """Refuse other data than that of the run.

    Raises:
        ConfigError: It is not there, or has another digest.
    """
    for split, address in (("train", job.data.train), ("val", job.data.val)):
        try:
            dataset: Dataset = job.data.open_train() if split == "train" else job.data.open(address)
        except QdetError as error:
            if not isinstance(error, ConfigError | DataError):
                raise
            raise ConfigError(f"{error}; --{split} SHARDS says where the same shards are") from error
        now, then = identify(dataset), recorded.data.get(split, "")
        if now != then:
            what, place = ("digest", 0) if now.split(" ")[0] != then.split(" ")[0] else ("index", -1)
            raise ConfigError(
                f"{mask(address)} is not what the run was trained with: its {what} is "
                f"{now.split(' ')[place][:SHOWN]}, that of the run's --data.{split} was "
                f"{then.split(' ')[place][:SHOWN]}; give the same shards with --{split}"
            )


def _flag(path: str) -> str:
    return path.rpartition(".")[2]
