"""Change and flatten a tree of frozen dataclasses by dotted path, for sweeps, resuming and MLflow."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from qdet.errors import ConfigError, did_you_mean

T = TypeVar("T")


def override(config: T, changes: Mapping[str, Any]) -> T:
    """Return `config` with every dotted path in `changes` replaced, each node's changes all at once.

    A path may name a whole node; paths below it then change the new one.

    >>> override(job, {"optim.lr": 1e-4, "train.batch_size": 12, "train.workers": 4})
    """
    here: dict[str, Any] = {}
    below: dict[str, dict[str, Any]] = {}
    for path, value in changes.items():
        name, _, rest = path.partition(".")
        _require(config, name)
        if rest:
            below.setdefault(name, {})[rest] = value
        else:
            here[name] = value
    for name, inner in below.items():
        here[name] = override(here.get(name, getattr(config, name)), inner)
    return dataclasses.replace(config, **here)  # type: ignore[type-var]


def flatten(config: Any) -> dict[str, Any]:
    """Return every leaf by its dotted path, and every node's class: MLflow's run parameters.

    >>> flatten(job)["detector.backbone.drop_path"]
    0.2
    """
    flat: dict[str, Any] = {}
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if dataclasses.is_dataclass(value):
            flat[f.name] = type(value).__name__
            flat |= {f"{f.name}.{path}": leaf for path, leaf in flatten(value).items()}
        else:
            flat[f.name] = value
    return flat


def restore(kind: type[T], flat: Mapping[str, Any], *, at: str = "") -> T:
    """Rebuild the tree that `flatten` turned into `flat`, also after a round trip through JSON.

    Settings that `flat` does not have keep their defaults.

    Raises:
        ConfigError: It names a class or a setting that this version does not have, or a value of another
            type.
    """
    hints = typing.get_type_hints(kind)
    names = {f.name for f in dataclasses.fields(kind)}  # type: ignore[arg-type]  (T is a dataclass)
    given = {path.removeprefix(at).partition(".")[0] for path in flat if path.startswith(at)}
    if unknown := sorted(given - names):
        raise ConfigError(
            f"{kind.__name__} has no setting {', '.join(unknown)}: it was saved by another version"
        )
    values: dict[str, Any] = {}
    for name in given:
        value, classes = flat[at + name], {c.__name__: c for c in _dataclasses_in(hints[name])}
        if isinstance(value, str) and value in classes:
            values[name] = restore(classes[value], flat, at=f"{at}{name}.")
        elif classes and value is not None:
            raise ConfigError(f"{at}{name}: {value!r} is none of {', '.join(classes)}")
        else:
            try:
                values[name] = _fit(_tuples(value), hints[name])
            except (TypeError, OverflowError) as error:
                said = f"{value!r:.80}"
                raise ConfigError(f"{at}{name}: {said} is no value of this setting") from error
    return kind(**values)


def _dataclasses_in(hint: Any) -> list[type]:
    """Return the dataclasses that a type, or a union, allows."""
    found = [hint, *typing.get_args(hint)]
    return [c for c in found if isinstance(c, type) and dataclasses.is_dataclass(c)]


def _tuples(value: Any) -> Any:
    """JSON has no tuples, and a job has no lists."""
    return tuple(_tuples(v) for v in value) if isinstance(value, list | tuple) else value


def _fit(value: Any, hint: Any) -> Any:
    """Return a value as of a type, as far as that is one of JSON's, which has no 1.0: else as it is.

    Raises:
        TypeError: It is of another one.
        OverflowError: It is a number that is too large.
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _fit_one_of(value, args)
    if origin is typing.Literal:
        if any(type(value) is type(one) and value == one for one in args):
            return value
        raise TypeError(hint)
    if origin is tuple and args and isinstance(value, tuple):
        each = [args[0]] * len(value) if args[-1] is ... else list(args)
        if len(each) != len(value):
            raise TypeError(hint)
        return tuple(map(_fit, value, each))
    if hint is float and type(value) is int:
        return float(value)
    plain = hint in (int, float, bool, str, types.NoneType)
    if (plain and type(value) is not hint) or (origin is tuple and not isinstance(value, tuple)):
        raise TypeError(hint)
    return value


def _fit_one_of(value: Any, hints: tuple[Any, ...]) -> Any:
    """Return a value as of one of several types: of its own, if that is among them."""
    for hint in sorted(hints, key=lambda one: one is not type(value)):
        try:
            return _fit(value, hint)
        except TypeError:
            continue
    raise TypeError(hints)


def _require(config: Any, name: str) -> None:
    names = [f.name for f in dataclasses.fields(config)]
    if name not in names:
        raise ConfigError(
            f"{type(config).__name__} has no {name!r}.{did_you_mean(name, names)} It has: {', '.join(names)}."
        )
