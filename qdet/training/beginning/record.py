"""The first losses of a run to the last bit, and what they were computed from: `beginning.json`.

Rank 0 writes it while the run trains its first steps, and a resumed run leaves it as it is, so that
`qdet reproduce` can train them again years later.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import msgspec

from qdet.errors import StorageError
from qdet.storage import Folder
from qdet.storage.parsing import parse_json_object
from qdet.training.beginning.conditions import Conditions

FILE = "beginning.json"
MOST = 100
"""Steps whose losses are kept."""
LARGEST = 2**20
"""Bytes of the largest record that is read; one has some 15 kB."""
_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Beginning:
    """The first steps of a run."""

    job: dict[str, Any]
    """The settings, flat, without secrets; ZeRO's stage as it was chosen."""
    ranks: int
    hosts: tuple[str, ...]
    """Host of each rank."""
    conditions: Conditions
    plan_version: int
    """Version of how order and augmentation follow from seed and step."""
    data: dict[str, str]
    """What identifies the data, by `train` and `val`; see `same_data.identify`."""
    losses: tuple[float, ...] = ()
    """Mean loss of each step from the first on; NaN of a skipped one."""

    def to_bytes(self) -> bytes:
        """Return the file: losses as hexadecimal numbers, which are exact."""
        content = asdict(self) | {"losses": [loss.hex() for loss in self.losses]}
        return json.dumps({"format": _FORMAT, **content}, indent=1, default=str).encode()


def read_beginning(folder: Folder) -> Beginning | None:
    """Return what a run's folder says of its first steps; None without a record.

    Raises:
        StorageError: The record is damaged, or cannot be read.
    """
    size = folder.size(FILE)
    if size is None:
        return None
    try:
        if size > LARGEST:
            raise ValueError(f"it has {size} bytes")
        return _parse(parse_json_object(folder.read(FILE)))
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        said = str(error)[:200]
        raise StorageError(f"{folder}/{FILE} is no record of first losses: {said}") from error


def _parse(content: dict[str, Any]) -> Beginning:
    if content.pop("format") != _FORMAT:
        raise ValueError(f"its format is not {_FORMAT}")
    texts = content["losses"]
    if not isinstance(texts, list) or len(texts) > MOST:
        raise ValueError(f"it does not hold up to {MOST} losses")
    losses = [float.fromhex(text) for text in texts]
    found = msgspec.convert(content | {"losses": losses}, Beginning)
    if found.ranks < 1 or len(found.hosts) != found.ranks:
        raise ValueError(f"it has {found.ranks} ranks on {len(found.hosts)} hosts")
    return found


def first_difference(one: Sequence[float], other: Sequence[float], *, within: float = 0.0) -> int | None:
    """Return the first place where two lists of losses differ; None where none does.

    Args:
        one: Losses, as many as are compared.
        other: At least as many.
        within: Largest difference, relative to `one`, that counts as equal; 0 compares every bit.
    """
    for place, (a, b) in enumerate(zip(one, other, strict=False)):
        if math.isnan(a) and math.isnan(b):
            continue
        if a.hex() == b.hex() or (within and abs(a - b) <= within * abs(a)):
            continue
        return place
    return None
