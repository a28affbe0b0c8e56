"""The settings of a trial, which follow from the space, the seed and the trial's number alone.

So a sweep that is started again, or extended by more trials, tries the same settings under the same numbers.
"""

import itertools
import math
import random
from collections.abc import Mapping
from typing import Any

from qdet.job import Sweep
from qdet.search import Each, LogUniform, Space, Uniform


def settings_of(sweep: Sweep, number: int, *, seed: int) -> dict[str, Any]:
    """Return what trial `number`, from 1 on, tries, by dotted path.

    Options of `Each`, and of `Choice` in a grid, take turns: the first trials are all of their combinations.
    Everything else is drawn.

    Args:
        sweep: Its space and how it is searched.
        number: Of the trial, at least 1.
        seed: Of the draws.
    """
    listed = {path: one for path, one in sweep.space.items() if _is_listed(one, sweep)}
    turns = list(itertools.product(*(one.options for one in listed.values())))  # type: ignore[union-attr]
    turn = dict(zip(listed, turns[(number - 1) % len(turns)], strict=True))
    rng = random.Random(f"{seed} {number}")
    drawn = {path: _draw(one, rng) for path, one in sweep.space.items() if path not in turn}
    return {path: turn[path] if path in turn else drawn[path] for path in sweep.space}


def _is_listed(one: Space, sweep: Sweep) -> bool:
    return isinstance(one, Each) or sweep.search == "grid"


def _draw(one: Space, rng: random.Random) -> Any:
    if isinstance(one, Uniform):
        return rng.uniform(one.low, one.high)
    if isinstance(one, LogUniform):
        drawn = math.exp(rng.uniform(math.log(one.low), math.log(one.high)))
        return min(max(drawn, one.low), one.high)
    return rng.choice(one.options)


def as_plain(space: Mapping[str, Space]) -> dict[str, Any]:
    """Return a space as JSON has it: for every path, its kind and its numbers or options."""
    return {path: {"kind": type(one).__name__} | _numbers(one) for path, one in space.items()}


def _numbers(one: Space) -> dict[str, Any]:
    if isinstance(one, Uniform | LogUniform):
        return {"low": float(one.low), "high": float(one.high)}
    return {"options": [repr(option) for option in one.options]}
