"""How a sweep is conducted on a cluster: which trial comes next, which waits for room, which cannot run."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from qdet.checkpoint import RunFolder, open_folder
from qdet.errors import ConfigError
from qdet.job import Job
from qdet.launching.ray_backend import capacity
from qdet.launching.ray_backend.sweeping.trial import ENDED, ERROR, TrialPlan
from qdet.launching.runs import record
from qdet.launching.runs.sweeps.course import Course
from qdet.launching.runs.sweeps.record import STOPPED, Trial
from qdet.launching.runs.sweeps.rounds import Rounds
from qdet.launching.runs.sweeps.session import trial_name
from qdet.launching.runs.typed import as_flags


@dataclass
class Conduct:
    """Answers Ray Tune from a course."""

    course: Course
    plan: TrialPlan
    epoch_steps: Callable[[Job], tuple[int, int]]
    """Returns the steps of an epoch and of a whole training."""
    stopped: Callable[[Trial], None]
    """Called before Ray Tune is told to stop a trial's driver, and after that died for good."""
    rounds: Rounds | None = None
    """Of a population."""
    running: dict[int, Job] = field(default_factory=dict)
    left: list[int] = field(default_factory=list)
    _said: set[int] = field(default_factory=set)
    _checked: set[int] = field(default_factory=set)

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        """Ray Tune pickles all that it is given; nobody reads that, as the course is in the store."""
        return str, ("a sweep",)

    def __deepcopy__(self, memo: Mapping[int, Any]) -> "Conduct":
        """Return the one there is."""
        return self

    def suggest(self) -> dict[str, Any] | None:
        """Return the next trial that fits the cluster now; None if it has to wait.

        Raises:
            StopIteration: None is left.
        """
        while self._find_left():
            self._refuse_unfit()
            if not self.left:
                continue
            if len(self.running) >= self.course.sweep.concurrent:
                return None
            number = self.left[0]
            if self._is_over(number):
                self.left.pop(0)
                continue
            found = self._place(number)
            if found is not None:
                self.left.pop(0)
            return found
        if self.rounds is not None and self.running:
            return None
        raise StopIteration

    def job_of(self, number: int) -> Job:
        """Return the job of a trial; ConfigError where its settings do not go together."""
        return self.plan.job_of(self.course.settings(number))

    def report(self, number: int, result: Mapping[str, Any]) -> bool:
        """Take what a trial reports; return whether its driver is to be stopped."""
        if ENDED in result:
            self._take_metrics(number, result, last=True)
            self.course.end(number, result[ENDED], result.get(ERROR))
            if self.running.pop(number, None):
                self._say_end(self.course.trials[number])
            return True
        if not self._take_metrics(number, result, last=False):
            return False
        self._stop(number)
        return True

    def catch_up(self) -> None:
        """Take evaluations that checkpoints have and the record lacks: the sweep was killed in between."""
        begun = [trial for _, trial in sorted(self.course.trials.items()) if trial.state == "running"]
        for trial in begun:
            name = trial_name(self.course.file.name, trial.label)
            run = RunFolder(open_folder(self.plan.job.store.path).child(name))
            for step, manifest in sorted(run.manifests().items()):
                self._take_metrics(trial.number, {"step": step, **manifest.metrics}, last=False)
        self.course.end_decided()
        for trial in begun:
            if self.course.trials[trial.number].state in STOPPED:
                self.stopped(self.course.trials[trial.number])

    def lost(self, number: int, error: str) -> None:
        """Note that a trial's driver died for good."""
        self.course.end(number, "failed", error)
        self._stop(number)

    def completed(self, number: int) -> None:
        """Note that a trial's driver has returned; without a last report, its run's record says how."""
        if number in self.running:
            name = trial_name(self.course.file.name, self.course.trials[number].label)
            finished = record.status(self.plan.job.store.path, name) == "finished"
            why = None if finished else f"its driver ended without a word; see the run {name}"
            done = "paused" if self.rounds is not None and self.rounds.pause(number) else "finished"
            self.report(number, {ENDED: done if finished else "failed", ERROR: why})

    def _find_left(self) -> bool:
        """Whether a trial is left; the next round of a population begins once none of it is running."""
        if self.rounds is not None and not self.left and not self.running:
            self.left = self.rounds.next()
        return bool(self.left)

    def _stop(self, number: int) -> None:
        self.running.pop(number, None)
        self._say_end(self.course.trials[number])
        self.stopped(self.course.trials[number])

    @staticmethod
    def _say_end(trial: Trial) -> None:
        why = f": {trial.error.splitlines()[0]}" if trial.error else ""
        print(f"trial {trial.label} {trial.state}{why}", flush=True)

    def _take_metrics(self, number: int, result: Mapping[str, Any], *, last: bool) -> bool:
        """Pass an evaluation on; return whether the trial stops."""
        metrics = {name: result[name] for name in result if _is_metric(name, result[name])}
        if "step" not in result or not metrics:
            return False
        per_epoch, steps = self.epoch_steps(self.job_of(number))
        step = int(result["step"])
        epoch = math.ceil(step / per_epoch)
        return bool(
            self.course.report(number, epoch=epoch, step=step, metrics=metrics, last=last or step >= steps)
        )

    def _is_over(self, number: int) -> bool:
        """End a trial that cannot be started, and say so."""
        known = self.course.trials.get(number)
        if self.course.spent and (known is None or known.state == "paused"):
            if known is not None:
                self.course.end(number, "out of budget")
            return True
        try:
            job = self.job_of(number)
        except ConfigError as error:
            return self._refuse(number, "failed", str(error))
        nodes = capacity.list_nodes()
        if capacity.choose_gpu(nodes, job.train) is None:
            return self._refuse(number, "cannot run here", capacity.explain_shortage(nodes, job.train))
        return False

    def _refuse_unfit(self) -> None:
        """End what cannot run here before anything else starts; what TPE has yet to propose comes later."""
        if self.course.sweep.search != "tpe":
            new = [number for number in self.left if number not in self._checked]
            self._checked.update(new)
            over = {number for number in new if self._is_over(number)}
            self.left = [number for number in self.left if number not in over]

    def _refuse(self, number: int, state: Any, why: str) -> bool:
        self.course.end(number, state, why)
        if self.rounds is not None:
            self.rounds.refused.add(number)
        self._say_end(self.course.trials[number])
        return True

    def _place(self, number: int) -> dict[str, Any] | None:
        """Start a trial if the cluster has room beside those that run."""
        job, nodes = self.job_of(number), capacity.list_nodes()
        gpu = bool(capacity.choose_gpu(nodes, job.train))
        room = capacity.count_room(nodes, job.train, gpu=gpu)
        taken = sum(one.train.least_workers for one in self.running.values())
        if self.running and taken + job.train.least_workers > room:
            self._say_waiting(number, f"{taken} of the {room} workers")
            return None
        drivers = capacity.count_drivers(nodes)
        if len(self.running) >= drivers:
            self._say_waiting(number, f"the memory of all {drivers} drivers")
            return None
        trial = self.course.start(number)
        self.running[number] = job
        does = f"resumes after epoch {trial.epoch}:" if trial.epoch else "tries"
        print(f"trial {trial.label} {does} {as_flags(self.course.settings(number))}", flush=True)
        pause = None if self.rounds is None else self.rounds.pause(number)
        return {"trial": number, "gpu": gpu} | ({"pause": pause} if pause else {})

    def _say_waiting(self, number: int, taken: str) -> None:
        if number not in self._said:
            self._said.add(number)
            label, running = Trial(number=number, settings={}).label, len(self.running)
            said = f"{running} running trials take {taken} that the cluster has room for"
            print(f"trial {label} waits: {said}", flush=True)


def _is_metric(name: str, value: Any) -> bool:
    """Whether a result is of an evaluation, such as `val/AP`, and none of Ray Tune's own."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return "/" in name and not name.startswith("config/") and number
