"""Check the settings of a sweep before its first trial: declared types and the dataclasses' own checks."""

import itertools
import math
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from typeguard import CollectionCheckStrategy, TypeCheckError, check_type

from qdet.config import override
from qdet.errors import ConfigError
from qdet.search import Choice, Each, Space

LIMIT = 4096
"""Most combinations that are checked one by one; of larger spaces, each value by itself."""


def check(config: Any, space: Mapping[str, Space]) -> None:
    """Raise a ConfigError if `config` refuses a combination in `space`.

    Of ranges, both ends are checked. All paths of `space` must exist.
    """
    values = {path: values_to_try(one) for path, one in space.items()}
    for path, options in values.items():
        hint = declared_type(config, path)
        for value in options:
            _check_type(path, value, hint)
    for changes in _combinations(values):
        error = _refusal(config, changes)
        if error is not None:
            raise ConfigError(f"a sweep over {_name_culprit(config, changes)} cannot be: {error}") from error


def values_to_try(one: Space) -> Sequence[Any]:
    """Return the options, or both ends of a range as floats."""
    return one.options if isinstance(one, Choice | Each) else (float(one.low), float(one.high))


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


def _combinations(values: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    if math.prod(map(len, values.values())) <= LIMIT:
        for chosen in itertools.product(*values.values()):
            yield dict(zip(values, chosen, strict=True))
    else:
        yield from ({path: value} for path, options in values.items() for value in options)


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
