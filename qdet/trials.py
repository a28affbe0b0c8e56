"""Check the settings of a sweep before its first trial: declared types and the dataclasses' own checks."""

import math
import types
from collections.abc import Iterator, Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from typeguard import CollectionCheckStrategy, TypeCheckError, check_type

from qdet.config import flatten, override
from qdet.errors import ConfigError
from qdet.search import Choice, Each, LogUniform, Plain, Space, Uniform, combine, conditions, plain

LIMIT = 4096
"""Most combinations that are checked one by one; of larger spaces, each value by itself."""


def check(config: Any, space: Mapping[str, Space], *, listed: tuple[type, ...] = (Each,)) -> None:
    """Raise a ConfigError if `config` refuses a combination in `space`, or has no such setting.

    Of ranges, both ends are checked.

    Args:
        config: What is searched.
        space: By dotted path.
        listed: Kinds whose options take turns: what they depend on must take turns, too.
    """
    for path, one in space.items():
        _check_conditions(path, space, listed)
        if path not in flatten(override(config, _met(one))):
            raise ConfigError(f"sweep of {config.name!r} names no setting: {path}")
    for path, one in space.items():
        hint = declared_type(override(config, _met(one)), path)
        for value in values_to_try(plain(one)):
            _check_type(path, value, hint)
    for changes in _combinations(space):
        error = _refusal(config, changes)
        if error is not None:
            raise ConfigError(f"a sweep over {_name_culprit(config, changes)} cannot be: {error}") from error


def check_search(space: Mapping[str, Space], *, search: str, scheduler: str) -> None:
    """Raise a ConfigError where a space has kinds that a search or a scheduler cannot use."""
    kinds = {path: type(plain(one)) for path, one in space.items()}
    ranges = [path for path, kind in kinds.items() if kind in (Uniform, LogUniform)]
    each = [path for path, kind in kinds.items() if kind is Each]
    if search == "grid" and ranges:
        raise ConfigError(
            f"--sweep.search grid: {ranges[0]} is a range, which has no grid: list its values as a "
            "Choice, or leave --sweep.search at random"
        )
    if each and (search == "tpe" or scheduler == "pbt"):
        flag = "search tpe" if search == "tpe" else "scheduler pbt"
        raise ConfigError(
            f"--sweep.{flag}: of {each[0]} every option is trained, as it is an Each, so nothing can be "
            "chosen: make it a Choice, or search at random with --sweep.scheduler asha or none"
        )
    if search == "tpe" and scheduler == "pbt":
        raise ConfigError(
            "--sweep.search tpe learns from trials that have ended, and with --sweep.scheduler pbt all "
            "train at once: search at random"
        )


def values_to_try(one: Plain) -> tuple[Any, ...]:
    """Return the options, or both ends of a range as floats."""
    return one.options if isinstance(one, Choice | Each) else (float(one.low), float(one.high))


def _check_conditions(path: str, space: Mapping[str, Space], listed: tuple[type, ...]) -> None:
    """Raise unless each condition is on a list of options that stands earlier and has all its values."""
    before = list(space)[: list(space).index(path)]
    for when in conditions(space[path]):
        said = f"a sweep cannot search {path} only when {when.path} has certain values"
        if when.path not in before:
            raise ConfigError(f"{said}: {when.path} has to stand before it in the space")
        parent = plain(space[when.path])
        if not isinstance(parent, Choice | Each):
            raise ConfigError(f"{said}: {when.path} is a range, make it a Choice")
        if absent := [value for value in when.values if value not in parent.options]:
            raise ConfigError(f"{said}: {absent[0]!r} is none of its options")
        if isinstance(plain(space[path]), listed) and not isinstance(parent, listed):
            raise ConfigError(f"{said}: every option of {path} is trained, so make {when.path} an Each, too")


def _met(one: Space) -> dict[str, Any]:
    """Return settings under which a space is searched."""
    return {when.path: when.values[0] for when in conditions(one)}


def declared_type(config: Any, path: str) -> Any:
    """Return the type that a setting's dataclass declares for it."""
    *parents, name = path.split(".")
    for parent in parents:
        config = getattr(config, parent)
    return get_type_hints(type(config))[name]


def _check_type(path: str, value: Any, hint: Any) -> None:
    try:
        check_type(value, hint, collection_check_strategy=CollectionCheckStrategy.ALL_ITEMS)
    except TypeCheckError as error:
        raise ConfigError(f"a sweep cannot try {path}={value!r}: {path} takes {_in_words(hint)}") from error


def _in_words(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(map(repr, get_args(hint)))
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(map(_in_words, get_args(hint)))
    if hint is type(None):
        return "None"
    return hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint)


def _combinations(space: Mapping[str, Space]) -> Iterator[dict[str, Any]]:
    if math.prod(len(values_to_try(plain(one))) for one in space.values()) <= LIMIT:
        yield from combine(space, values_to_try)
    else:
        for path, one in space.items():
            yield from (_met(one) | {path: value} for value in values_to_try(plain(one)))


def _refusal(config: Any, changes: Mapping[str, Any]) -> ConfigError | None:
    try:
        override(config, changes)
    except ConfigError as error:
        return error
    return None


def _name_culprit(config: Any, changes: Mapping[str, Any]) -> str:
    """Name the change that is refused by itself, or else all of them."""
    alone = [path for path in changes if _refusal(config, {path: changes[path]})]
    return ", ".join(f"{path}={changes[path]!r}" for path in alone[:1] or changes)
