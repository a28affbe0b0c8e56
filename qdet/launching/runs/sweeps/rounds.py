"""The rounds of a population: all trials train the same epochs, are compared, and train on.

A comparison is recorded trial by trial, each after its checkpoint is in place, and none trains on before all
are recorded. A sweep that is killed in between decides the same again.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from qdet.errors import CheckpointError
from qdet.launching.runs.sweeps.course import Course
from qdet.launching.runs.sweeps.population import Exploit, Member, decide, pause_of, score
from qdet.launching.runs.sweeps.record import Trial, Turn
from qdet.launching.runs.sweeps.settings import as_json

Adopt = Callable[[Trial, Trial, int], None]
"""Puts the second trial's checkpoint after so many steps in place of the first's."""


@dataclass(frozen=True)
class Rounds:
    """Whose turn it is in a population, and what comparisons change."""

    course: Course
    adopt: Adopt
    epochs: int
    """Of a whole training, a started one counted."""
    refused: set[int] = field(default_factory=set)
    """Trials that cannot run here."""

    def pause(self, number: int) -> int | None:
        """Return the epoch after which a trial pauses next; None where it trains to its end."""
        return pause_of(self._turns(number), self.course.sweep, epochs=self.epochs)

    def next(self) -> list[int]:
        """Return the trials that train now, comparing all where all have paused; none is running."""
        waiting = self._waiting
        ready = [number for number in waiting if not self._has_paused(number)]
        paused = [number for number in waiting if self._has_paused(number)]
        done = min((len(self.course.trials[number].turns) for number in paused), default=0)
        behind = [number for number in ready if self._turns(number) <= done]
        if behind or not paused:
            return behind or ready
        self._compare((done + 1) * self.course.sweep.exploit_epochs)
        return self.next()

    @property
    def _waiting(self) -> list[int]:
        return [number for number in self.course.waiting if number not in self.refused]

    def _turns(self, number: int) -> int:
        known = self.course.trials.get(number)
        return len(known.turns) if known else 0

    def _has_paused(self, number: int) -> bool:
        known, pause = self.course.trials.get(number), self.pause(number)
        return known is not None and known.state == "paused" and pause is not None and known.epoch >= pause

    def _compare(self, epoch: int) -> None:
        """Compare all trials that have paused after an epoch, and record what follows for each."""
        course, trials = self.course, self._members(epoch)
        members = [Member(one.number, self._score(one, epoch), course.settings(one.number)) for one in trials]
        found = decide(members, course.sweep.space, epoch=epoch, seed=course.file.seed)
        exploits = {exploit.member: exploit for exploit in found}
        for trial in trials:
            if all(turn.epoch != epoch for turn in trial.turns):
                course.put(self._turn(trial, exploits.get(trial.number), epoch))

    def _members(self, epoch: int) -> list[Trial]:
        """Return the trials that are compared: a trial that was recorded already as it was before."""
        found = []
        for number in self._waiting:
            trial = self.course.trials.get(number)
            if trial is not None and trial.state == "paused" and trial.epoch >= epoch:
                found.append(trial)
        return found

    def _score(self, trial: Trial, epoch: int) -> float:
        (entry,) = [entry for entry in trial.reports if entry.epoch == epoch]
        value = entry.metrics.get(self.course.sweep.metric, float("nan"))
        return score(value, maximise=self.course.sweep.mode == "max")

    def _turn(self, trial: Trial, exploit: Exploit | None, epoch: int) -> Trial:
        """Return a trial after a comparison; what it continues from is in place by then."""
        (step,) = [entry.step for entry in trial.reports if entry.epoch == epoch]
        turn = Turn(epoch=epoch, step=step, before=trial.settings)
        if exploit is None:
            return replace(trial, turns=(*trial.turns, turn))
        winner = self.course.trials[exploit.winner]
        try:
            self.adopt(trial, winner, step)
        except CheckpointError as error:
            print(f"trial {trial.label} continues from its own checkpoint: {error}", flush=True)
            return replace(trial, turns=(*trial.turns, replace(turn, error=str(error))))
        print(f"trial {trial.label} continues from {winner.label} after step {step}", flush=True)
        turn = replace(turn, parent=exploit.winner)
        return replace(trial, turns=(*trial.turns, turn), settings=as_json(exploit.settings))
