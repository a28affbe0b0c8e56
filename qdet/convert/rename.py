"""Rename the tensors of a checkpoint by a table of patterns."""

import re
from collections.abc import Mapping

from torch import Tensor

from qdet.backbones.layouts import to_qdet
from qdet.errors import CheckpointError

Table = tuple[tuple[str, str], ...]
"""(pattern, name): a key that the pattern matches entirely gets the name, which may refer to its groups.

An empty name drops the tensor.
"""

_COUNTERS = ("total_ops", "total_params")  # left behind by a FLOP counter


def convert(official: Mapping[str, Tensor], table: Table) -> dict[str, Tensor]:
    """Rename a detector's tensors to qdet's names, without those that the table drops.

    Tensors under `backbone.` that the table lacks (it may have a pyramid) follow the backbones' layouts.
    Authors store shared tensors under several names: such aliases become one, and must be equal.

    Raises:
        CheckpointError: Keys that the table lacks, or aliases that differ.
    """
    official = {k.removeprefix("module."): t for k, t in official.items() if not k.endswith(_COUNTERS)}
    names = {key: rename(key, table) for key in official}
    backbone = {k: official[k] for k in official if names[k] is None and k.startswith("backbone.")}
    names = {key: name for key, name in names.items() if key not in backbone}
    unknown = sorted(key for key, name in names.items() if name is None)
    if unknown:
        raise CheckpointError(f"not a checkpoint of this detector, it has: {', '.join(unknown[:10])}")
    state: dict[str, Tensor] = {}
    for key, name in names.items():
        if name:
            _check_alias(state.get(name), official[key], key)
            state[name] = official[key]
    if backbone:
        state |= {f"backbone.{name}": value for name, value in to_qdet(backbone).items()}
    return state


def rename(key: str, table: Table) -> str | None:
    """Return qdet's name of one of the authors' keys, empty if the table drops it.

    None if not exactly one row matches.
    """
    names = [match.expand(name) for pattern, name in table if (match := re.fullmatch(pattern, key))]
    return names[0] if len(names) == 1 else None


def _check_alias(known: Tensor | None, again: Tensor, key: str) -> None:
    if known is not None and not (known.shape == again.shape and (again.is_meta or known.equal(again))):
        raise CheckpointError(f"{key} should be an alias of an earlier tensor, but differs from it")
