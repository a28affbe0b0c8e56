"""Names and original ids of a dataset's classes, and their contiguous indices in the network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from qdet.errors import DataError
from qdet.parsing import parse_json


@dataclass(frozen=True)
class Categories:
    """Class k of the network is `names[k]` and has the id `ids[k]` in the annotation file; ids ascend."""

    names: tuple[str, ...]
    ids: tuple[int, ...]

    @classmethod
    def from_coco(cls, entries: Sequence[Mapping[str, Any]], *, where: str) -> "Categories":
        """Read COCO's `categories` list; `where` names the file in errors."""
        try:
            pairs = sorted((int(entry["id"]), str(entry["name"])) for entry in entries)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{where}: every entry of `categories` needs an integer `id` and a `name`"
            ) from error
        if not pairs:
            raise DataError(f"{where} has no categories")
        ids, names = zip(*pairs, strict=True)
        for what, values in (("id", ids), ("name", names)):
            twice = sorted({value for value in values if values.count(value) > 1})
            if twice:
                raise DataError(
                    f"{where} has more than one category of {what} {twice[0]!r}; rename or merge them"
                )
        return cls(names=names, ids=ids)

    def __len__(self) -> int:
        return len(self.ids)

    def to_coco(self) -> list[dict[str, Any]]:
        """The `categories` list of a COCO annotation file."""
        return [{"id": i, "name": name} for i, name in zip(self.ids, self.names, strict=True)]

    def contiguous(self, original: Sequence[int]) -> Int64[np.ndarray, " n"]:
        """Indices in [0, K) of original category ids; KeyError for an id that the dataset does not have."""
        return np.array([self._index[i] for i in original], dtype=np.int64)

    def original(self, labels: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """Original category ids of indices in [0, K)."""
        return np.array(self.ids, dtype=np.int64)[labels]

    @cached_property
    def _index(self) -> dict[int, int]:
        return {original: k for k, original in enumerate(self.ids)}


def named_categories(file: str) -> Categories:
    """Classes that a COCO annotation file lists."""
    return Categories.from_coco(_read_list(file), where=file)


def _read_list(file: str) -> Sequence[Mapping[str, Any]]:
    try:
        said = parse_json(read_categories_file(file))
    except (ValueError, RecursionError) as error:
        raise DataError(f"--data.categories {file} is no JSON ({error})") from error
    listed = said.get("categories") if isinstance(said, dict) else said
    if not isinstance(listed, list):
        raise DataError(f"--data.categories {file} has no list `categories` of {{id, name}}")
    return listed


def read_categories_file(file: str) -> bytes:
    """Bytes of the file that --data.categories names; DataError where it cannot be read."""
    try:
        return Path(file).expanduser().read_bytes()
    except OSError as error:
        raise DataError(f"--data.categories {file} cannot be read: {error.strerror or error}") from error
