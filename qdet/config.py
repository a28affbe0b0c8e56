"""Changing a tree of frozen dataclasses by dotted path: what sweeps, resumes and MLflow need."""

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any, TypeVar

from qdet.errors import ConfigError

T = TypeVar("T")


def override(config: T, changes: Mapping[str, Any]) -> T:
    """Return `config` with every dotted path in `changes` replaced, each node's changes all at once.

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
        here[name] = override(getattr(config, name), inner)
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


def _require(config: Any, name: str) -> None:
    names = [f.name for f in dataclasses.fields(config)]
    if name not in names:
        close = difflib.get_close_matches(name, names, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ConfigError(f"{type(config).__name__} has no {name!r}.{hint} It has: {', '.join(names)}.")
