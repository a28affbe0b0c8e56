"""The settings of a trial as they are drawn, and as they are read from a sweep's record.

What is drawn follows from the space, the seed and the trial's number alone. So a sweep that is started again,
or extended by more trials, tries the same settings under the same numbers.
"""

import json
import math
import random
from collections.abc import Mapping
from typing import Any

from qdet.errors import ConfigError
from qdet.job import Sweep
from qdet.search import LogUniform, Plain, Space, Uniform, conditions, is_searched, plain


def draw_settings(sweep: Sweep, number: int, *, seed: int) -> dict[str, Any]:
    """Return what trial `number`, from 1 on, tries, by dotted path.

    Options of `Each`, and of `Choice` in a grid, take turns: the first trials are all of their combinations.
    Everything else is drawn.

    Args:
        sweep: Its space and how it is searched.
        number: Of the trial, at least 1.
        seed: Of the draws.
    """
    turns = sweep.turns()
    turn = turns[(number - 1) % len(turns)]
    rng = random.Random(f"{seed} {number}")
    settings: dict[str, Any] = {}
    for path, one in sweep.space.items():
        if path in turn:
            settings[path] = turn[path]
        elif not isinstance(plain(one), sweep.listed) and is_searched(one, settings):
            settings[path] = draw(plain(one), rng)
    return settings


def draw(one: Plain, rng: random.Random) -> Any:
    """Return a value of a range or list."""
    if isinstance(one, Uniform):
        return rng.uniform(one.low, one.high)
    if isinstance(one, LogUniform):
        drawn = math.exp(rng.uniform(math.log(one.low), math.log(one.high)))
        return min(max(drawn, one.low), one.high)
    return rng.choice(one.options)


def decode(space: Mapping[str, Space], recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a trial from its record: JSON has no tuples, no infinity and no classes.

    Raises:
        ConfigError: A value is none of the space's options.
    """
    return {path: _decode(path, space[path], recorded[path]) for path in space if path in recorded}


def _decode(path: str, space: Space, value: Any) -> Any:
    one = plain(space)
    if isinstance(one, Uniform | LogUniform):
        if isinstance(value, int | float) and not isinstance(value, bool) and one.low <= value <= one.high:
            return float(value)
        raise ConfigError(f"the sweep's record has {path}={value!r:.80}, which is not in its space")
    for option in one.options:
        if json.dumps(as_json(option)) == json.dumps(value):
            return option
    raise ConfigError(f"the sweep's record has {path}={value!r}, which is none of the options in its space")


def as_json(value: Any) -> Any:
    """Return a value as strict JSON has it: lists for tuples, text for what else it lacks."""
    if isinstance(value, Mapping):
        return {str(key): as_json(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(one) for one in value]
    exact = (
        value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))
    )
    return value if exact else repr(value)


def as_plain(space: Mapping[str, Space]) -> dict[str, Any]:
    """Return a space as JSON has it: for every path, its kind, its numbers or options and its conditions."""
    return {path: {"kind": type(plain(one)).__name__} | _numbers(one) for path, one in space.items()}


def _numbers(space: Space) -> dict[str, Any]:
    one = plain(space)
    when = {when.path: [repr(value) for value in when.values] for when in conditions(space)}
    conditional = {"when": when} if when else {}
    if isinstance(one, Uniform | LogUniform):
        return {"low": float(one.low), "high": float(one.high)} | conditional
    return {"options": [repr(option) for option in one.options]} | conditional
