"""A sweep in its store, as JSON: what it searches, and a file for every trial with all that it reported.

    <store>/<sweep>/sweep.json          space, seed, job; written before the first trial
    <store>/<sweep>/trials/0003.json    settings, state and reports of the third trial
    <store>/<sweep>-t03/                the third trial's run

The store is a folder or a URL. Files are replaced as a whole, so a sweep may be killed at any moment.
"""

import json
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import msgspec

from qdet.changes import FIXED, LEARNING
from qdet.checkpoint import open_folder
from qdet.config import flatten
from qdet.errors import CheckpointError, ConfigError
from qdet.job import Job, Sweep
from qdet.launching.runs.record import RECORD, SWEEP
from qdet.launching.runs.sweeps.settings import as_json, as_plain
from qdet.storage import Folder
from qdet.storage.lease import Fence
from qdet.storage.parsing import parse_json_object

TRIALS = "trials"
State = Literal[
    "running", "paused", "finished", "stopped early", "out of budget", "failed", "cannot run here"
]
STOPPED: tuple[State, ...] = ("stopped early", "out of budget")
"""States in which the sweep has stopped a trial."""
ENDED: tuple[State, ...] = ("finished", *STOPPED, "failed")
"""States that the same command leaves as they are, but for a larger budget."""


@dataclass(frozen=True, kw_only=True)
class SweepFile:
    """What must be the same when a sweep resumes, and where it is in MLflow."""

    name: str
    space: Mapping[str, Any]
    rules: Mapping[str, Any]
    """Metric, mode, search, scheduler and grace; of a population, how often it is compared and its size."""
    seed: int
    job: Mapping[str, Any]
    """The settings of the job that change what a trial learns, without those that are searched."""
    data_digest: str | None
    """Of the training shards; None where the driver cannot see them."""
    hash: str
    """Tells it from sweeps of the same name in other stores."""
    mlflow_run_id: str | None = None
    seconds: float = 0.0
    """How long it has run so far, in all of its starts."""

    @classmethod
    def of(cls, name: str, job: Job, sweep: Sweep, *, digest: str | None) -> "SweepFile":
        """Return the record of a sweep that starts now; `digest` is that of its training shards."""
        names = ["metric", "mode", "search", "scheduler", "grace_epochs"]
        names += ["exploit_epochs", "trials"] if sweep.scheduler == "pbt" else []
        return cls(
            name=name,
            space=as_plain(sweep.space),
            rules={rule: getattr(sweep, rule) for rule in names},
            seed=job.train.seed,
            job=_learning(job, sweep),
            data_digest=digest,
            hash=secrets.token_hex(4),
        )

    def difference(self, other: "SweepFile") -> str | None:
        """Say how another sweep differs in what trials are compared by; None where it does not."""
        if self.space != other.space:
            return f"it searches {_describe(self.space)}, not {_describe(other.space)}"
        for name in ("rules", "job"):
            then, now = getattr(self, name), getattr(other, name)
            for key in sorted({*then, *now}):
                if then.get(key) != now.get(key):
                    flag = f"sweep.{key}" if name == "rules" else key
                    return f"--{flag.replace('_', '-')} was {then.get(key)}, it is {now.get(key)}"
        if self.seed != other.seed:
            return f"--train.seed was {self.seed}, it is {other.seed}"
        if None not in (self.data_digest, other.data_digest) and self.data_digest != other.data_digest:
            return f"--data.train holds other images: their digest was {self.data_digest}"
        return None


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An evaluation of a trial."""

    order: int
    """Among all evaluations of the sweep, from 0 on."""
    epoch: int
    step: int
    metrics: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Turn:
    """A comparison of a population, and what came of it for one trial."""

    epoch: int
    """Epochs behind all trials."""
    step: int
    parent: int | None = None
    """Number of the trial whose checkpoint of this step it continues from; None: its own."""
    before: Mapping[str, Any]
    """Its settings up to here."""
    error: str | None = None
    """Why the checkpoint that was chosen could not be taken."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One trial and what is known of it."""

    number: int
    settings: Mapping[str, Any]
    state: State = "running"
    reports: tuple[Entry, ...] = ()
    """One for each epoch that was evaluated."""
    error: str | None = None
    """Why it failed, or cannot run here."""
    starts: int = 0
    """How often its driver was started."""
    turns: tuple[Turn, ...] = ()
    """One for each comparison, in a population."""

    @property
    def epoch(self) -> int:
        """Epochs behind it at its last evaluation; 0 before the first."""
        return max((entry.epoch for entry in self.reports), default=0)

    @property
    def label(self) -> str:
        """Its number as it is shown: `t03`."""
        return f"t{self.number:02d}"


@dataclass
class SweepStore:
    """The record of a sweep in its store."""

    folder: Folder
    written: dict[int, Trial] = field(default_factory=dict)
    fence: Fence | None = None
    """Its lease; nothing is written once another process has taken over."""

    @classmethod
    def at(cls, store: str, name: str) -> "SweepStore":
        """Return the record of the sweep `name` of a store; it may not be there yet."""
        try:
            return cls(open_folder(store).child(name))
        except CheckpointError as error:
            raise ConfigError(f"--store.path {error}") from error

    def find(self, wanted: SweepFile) -> tuple[SweepFile, dict[int, Trial]] | None:
        """Return the sweep of that name with its trials; None where there is none yet.

        Raises:
            ConfigError: The name is that of a run, or of a sweep that searches something else.
        """
        if self.folder.size(RECORD) is not None:
            raise ConfigError(
                f"--store.run {wanted.name} is a run, not a sweep: give the sweep another name, or none"
            )
        if self.folder.size(SWEEP) is None:
            return None
        known = self._read(SWEEP, SweepFile)
        if (why := known.difference(wanted)) is not None:
            raise ConfigError(
                f"--store.run {wanted.name} is another sweep: {why}. Change that back to resume "
                "it, or give this one another name"
            )
        return known, self.trials()

    def write(self, sweep: SweepFile) -> None:
        """Put what is known of the sweep as a whole."""
        self._put(SWEEP, sweep)
        self.folder.remove_claim()

    def put(self, trial: Trial) -> None:
        """Put what is known of a trial, if that is new."""
        if self.written.get(trial.number) != trial:
            self._put(f"{TRIALS}/{trial.number:04d}.json", trial)
            self.written[trial.number] = trial

    def _put(self, name: str, content: Any) -> None:
        if self.fence is not None:
            self.fence.check()
        try:
            self.folder.put(name, json.dumps(as_json(asdict(content)), indent=1, allow_nan=False).encode())
        except OSError as error:
            raise ConfigError(f"{self.folder}: {name} cannot be written ({error})") from error

    def read(self, number: int) -> Trial:
        """Return what is known of a trial; ConfigError where its file is not there, or damaged."""
        trial: Trial = self._read(f"{TRIALS}/{number:04d}.json", Trial)
        return trial

    def trials(self) -> dict[int, Trial]:
        """Read what is known of all trials, by number."""
        for name in self.folder.names(TRIALS):
            if name.endswith(".json"):
                trial = self._read(f"{TRIALS}/{name}", Trial)
                if name != f"{trial.number:04d}.json":
                    raise ConfigError(
                        f"{self.folder}: {TRIALS}/{name} holds trial {trial.number}; restore it from a backup"
                    )
                self.written[trial.number] = trial
        return dict(self.written)

    def _read(self, name: str, kind: type) -> Any:
        try:
            return msgspec.convert(parse_json_object(self.folder.read(name)), kind)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"{self.folder}: {name} cannot be read ({error}); restore it from a backup, or give "
                "the sweep another name"
            ) from error


def _learning(job: Job, sweep: Sweep) -> dict[str, Any]:
    """Return the settings of a job that results depend on, but its seed and where weights lie."""
    kept = {
        path: value
        for path, value in flatten(job).items()
        if _is_in(path, ("name", *FIXED, *LEARNING))
        and not _is_in(path, ("train.seed", *sweep.space))
        and not path.endswith("backbone.weights")
    }
    return as_json(kept)


def _is_in(path: str, groups: Iterable[str]) -> bool:
    return any(path == group or path.startswith(f"{group}.") for group in groups)


def _describe(space: Mapping[str, Any]) -> str:
    try:
        return _list_space(space)
    except (TypeError, KeyError, AttributeError):  # a record that was changed
        return f"{json.dumps(as_json(space)):.200}"


def _list_space(space: Mapping[str, Any]) -> str:
    parts = []
    for path, one in space.items():
        numbers = one.get("options") or (one["low"], one["high"])
        when = [f" when {other} is {' or '.join(values)}" for other, values in one.get("when", {}).items()]
        parts.append(f"{path} {one['kind']}({', '.join(map(str, numbers))}){''.join(when)}")
    return "; ".join(parts)
