"""The course of a sweep: which trials have run, which run next, and which stop.

Everything that happens to a trial passes through here and is in the store before anyone acts on it. Opening
the record again replays its reports in their order, so the scheduler is where it was.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from qdet.job import Sweep
from qdet.launching.runs.sweeps import tpe
from qdet.launching.runs.sweeps.halving import Halving, NoHalving, Report, Scheduler
from qdet.launching.runs.sweeps.record import ENDED, Entry, State, SweepFile, SweepStore, Trial
from qdet.launching.runs.sweeps.settings import as_json, decode, draw_settings

WRITE_TIME_EVERY = 30.0
"""Seconds between writes of how long the sweep has run."""


@dataclass
class Course:
    """The trials of a sweep by number, and what is decided about each."""

    sweep: Sweep
    file: SweepFile
    store: SweepStore
    trials: dict[int, Trial] = field(default_factory=dict)
    clock: Callable[[], float] = time.monotonic
    scheduler: Scheduler = field(init=False)
    _proposed: dict[int, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Replay what the trials have reported so far."""
        rule = self.sweep
        halving = Halving(rule.grace_epochs, maximise=rule.mode == "max")
        self.scheduler = halving if rule.scheduler == "asha" else NoHalving()
        self._began, self._before, self._stopped = self.clock(), self.file.seconds, set[int]()
        found = [(entry, number) for number, trial in self.trials.items() for entry in trial.reports]
        for entry, number in sorted(found, key=lambda one: one[0].order):
            if self.scheduler.stops(Report(number, entry.epoch, self._value(entry.metrics))):
                self._stopped.add(number)
        self._order = 1 + max((entry.order for entry, _ in found), default=-1)

    def settings(self, number: int) -> dict[str, Any]:
        """Return what a trial tries, by dotted path: as it is recorded, or as it would be proposed now.

        Raises:
            ConfigError: Its record does not fit the space, or the search is Optuna's, which is not installed.
        """
        known = self.trials.get(number)
        if known is not None:
            return decode(self.sweep.space, known.settings)
        if number not in self._proposed:
            self._proposed[number] = self._propose(number)
        return self._proposed[number]

    def _propose(self, number: int) -> dict[str, Any]:
        if self.sweep.search == "tpe":
            return tpe.propose(self.sweep, self.trials, number, seed=self.file.seed)
        return draw_settings(self.sweep, number, seed=self.file.seed)

    @property
    def waiting(self) -> list[int]:
        """Numbers of the trials that are still to be run, those that were running first."""
        spent = self.spent is not None
        begun = [n for n, trial in sorted(self.trials.items()) if self._goes_on(trial, spent=spent)]
        new = [] if spent else [n for n in range(1, self.sweep.runs + 1) if n not in self.trials]
        return begun + new

    @property
    def spent(self) -> str | None:
        """Say which budget is used up; None while there is some left."""
        epochs, hours = self.sweep.epochs, self.sweep.hours
        if epochs is not None and self.epochs >= epochs:
            return f"--sweep.epochs {epochs} is used up"
        if hours is not None and self.seconds >= 3600 * hours:
            return f"--sweep.hours {hours:g} is used up"
        return None

    @property
    def epochs(self) -> int:
        """Epochs that all trials have trained, up to their last evaluations."""
        return sum(trial.epoch for trial in self.trials.values())

    @property
    def seconds(self) -> float:
        """How long the sweep has run, in all of its starts."""
        return self._before + self.clock() - self._began

    def start(self, number: int) -> Trial:
        """Note that a trial's driver is started, for the first time or again."""
        known = self.trials.get(number) or Trial(number=number, settings=as_json(self.settings(number)))
        return self.put(replace(known, state="running", error=None, starts=known.starts + 1))

    def report(
        self, number: int, *, epoch: int, step: int, metrics: Mapping[str, float], last: bool
    ) -> State | None:
        """Take what a trial reports; return the state in which it stops here, None if it trains on.

        An epoch that was reported before the trial was resumed is not counted again.

        Args:
            number: Of the trial.
            epoch: Whole epochs behind it.
            step: Optimizer steps behind it.
            metrics: Of the evaluation.
            last: Whether this was the last evaluation: nothing is left to stop.
        """
        trial = self.trials[number]
        if trial.state != "running":
            return trial.state
        if self.sweep.metric not in metrics:
            names = ", ".join(sorted(metrics)) or "none"
            return self.end(number, "failed", f"--sweep.metric {self.sweep.metric} is not among: {names}")
        if all(entry.epoch != epoch for entry in trial.reports):
            self._add(trial, epoch, step, metrics)
        if last:
            return None
        if number in self._stopped:
            return self.end(number, "stopped early")
        return self.end(number, "out of budget") if self.spent else None

    def end(self, number: int, state: State, error: str | None = None) -> State:
        """Note how a trial ended, unless that is known."""
        trial = self.trials.get(number) or Trial(number=number, settings=as_json(self.settings(number)))
        if trial.state not in ENDED:
            self.put(replace(trial, state=state, error=error))
        return self.trials[number].state

    def end_decided(self) -> None:
        """End trials that were stopped by a report, but whose sweep was killed before it noted that."""
        for number in sorted(self._stopped):
            if self.trials[number].state == "running":
                self.end(number, "stopped early")

    def write_time(self) -> None:
        """Put how long the sweep has run, if the last time is a while ago."""
        if self.seconds - self.file.seconds > WRITE_TIME_EVERY:
            self.close()

    def close(self) -> None:
        """Put how long the sweep has run."""
        self.file = replace(self.file, seconds=self.seconds)
        self.store.write(self.file)

    def _goes_on(self, trial: Trial, *, spent: bool) -> bool:
        if trial.state == "out of budget":
            return not spent
        return trial.state not in ENDED

    def _add(self, trial: Trial, epoch: int, step: int, metrics: Mapping[str, float]) -> None:
        finite = {name: float(value) for name, value in metrics.items() if math.isfinite(value)}
        entry = Entry(order=self._order, epoch=epoch, step=step, metrics=finite)
        self._order += 1
        self.put(replace(trial, reports=(*trial.reports, entry)))
        if self.scheduler.stops(Report(trial.number, epoch, self._value(finite))):
            self._stopped.add(trial.number)
        self.write_time()

    def _value(self, metrics: Mapping[str, float]) -> float:
        return metrics.get(self.sweep.metric, math.nan)

    def put(self, trial: Trial) -> Trial:
        """Record a trial as it is now."""
        self.store.put(trial)
        self.trials[trial.number] = trial
        return trial
