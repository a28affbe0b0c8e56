"""Population-based training (PBT): weak trials continue from strong ones, with changed settings.

Jaderberg et al., Population Based Training of Neural Networks, 2017, https://arxiv.org/abs/1711.09846. All
trials train the same epochs, are compared, and train on. Of each four one is replaced: it gets the weights,
moments and step of one of the best, and settings that are mutated from that one's.

Every decision follows from the seed, the epoch and what was reported there: a sweep that is started again
decides the same.
"""

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from qdet.changes import LEARNING
from qdet.errors import ConfigError
from qdet.job import Job, Sweep
from qdet.launching.runs.sweeps.settings import draw
from qdet.search import LogUniform, Plain, Space, Uniform, is_searched, plain

SHARE = 4
"""One in so many members is replaced, and as many are copied."""
RESAMPLE = 0.25
"""Probability that a setting is drawn anew rather than perturbed."""
FACTORS = (0.8, 1.2)
"""What a number is multiplied by."""
_LENGTH = ("train.epochs", "train.steps")


@dataclass(frozen=True)
class Member:
    """A trial of the population where it is compared."""

    number: int
    score: float
    """Of the last evaluation, higher always better; minus infinity where it was not finite."""
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Exploit:
    """A member that continues from another."""

    member: int
    winner: int
    settings: Mapping[str, Any]
    """Mutated from the winner's."""


def decide(members: list[Member], space: Mapping[str, Space], *, epoch: int, seed: int) -> list[Exploit]:
    """Return which members continue from which others after `epoch` epochs.

    Args:
        members: All that train on.
        space: What settings are mutated within.
        epoch: Whole epochs behind all of them.
        seed: Of the sweep.
    """
    ranked = sorted(members, key=lambda one: (-one.score, one.number))
    count = max(1, len(ranked) // SHARE) if len(ranked) > 1 else 0
    found = []
    for loser in ranked[len(ranked) - count :]:
        rng = random.Random(f"{seed} {epoch} {loser.number}")
        winner = rng.choice(ranked[:count])
        if winner.score > loser.score:
            found.append(Exploit(loser.number, winner.number, mutate(space, winner.settings, rng)))
    return found


def mutate(space: Mapping[str, Space], settings: Mapping[str, Any], rng: random.Random) -> dict[str, Any]:
    """Return settings near others: numbers a fifth lower or higher, a neighbouring option, or drawn anew."""
    mutated: dict[str, Any] = {}
    for path, one in space.items():
        if is_searched(one, mutated):
            fresh = path not in settings or rng.random() < RESAMPLE
            mutated[path] = draw(plain(one), rng) if fresh else _perturb(plain(one), settings[path], rng)
    return mutated


def score(value: float, *, maximise: bool) -> float:
    """Return a metric's value such that higher is better."""
    signed = value if maximise else -value
    return signed if math.isfinite(signed) else -math.inf


def changes_in_training(path: str) -> bool:
    """Whether a run that resumes may have another value of a setting, without another length."""
    return path not in _LENGTH and any(path == group or path.startswith(f"{group}.") for group in LEARNING)


def searchable(sweep: Sweep) -> Sweep:
    """Return a sweep over what may change while a trial trains."""
    return replace(sweep, space={path: one for path, one in sweep.space.items() if changes_in_training(path)})


def check_population(sweep: Sweep, job: Job) -> None:
    """Raise a ConfigError where a population cannot train as the sweep says."""
    if sweep.scheduler != "pbt":
        return
    if fixed := [path for path in sweep.space if not changes_in_training(path)]:
        raise ConfigError(
            f"--sweep.scheduler pbt: {fixed[0]} cannot change while a trial trains. Search what can "
            "(optim, loss, train.precision), or choose --sweep.scheduler asha"
        )
    if sweep.trials < 2 and sweep.search != "grid":
        raise ConfigError("--sweep.scheduler pbt compares trials: give --sweep.trials 2 or more")
    every = job.train.eval_every
    if sweep.exploit_epochs % max(every, 1):
        raise ConfigError(
            f"--sweep.exploit-epochs {sweep.exploit_epochs}: trials are compared after evaluations, "
            f"which are every {every} epochs (--train.eval-every); give a multiple of that"
        )


def pause_of(done: int, sweep: Sweep, *, epochs: int) -> int | None:
    """Return the epoch after which a member pauses next; None where it trains to its end.

    Args:
        done: Comparisons behind it.
        sweep: How often members are compared.
        epochs: Of the whole training, a started one counted.
    """
    pause = (done + 1) * sweep.exploit_epochs
    return pause if pause < epochs else None


def _perturb(one: Plain, value: Any, rng: random.Random) -> Any:
    if isinstance(one, Uniform | LogUniform):
        return min(max(value * rng.choice(FACTORS), float(one.low)), float(one.high))
    at = one.options.index(value) + rng.choice((-1, 1))
    return one.options[min(max(at, 0), len(one.options) - 1)]
