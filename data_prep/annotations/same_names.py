"""Categories of one name: refused, or made one.

Roboflow's exports list the dataset itself as category 0, often under the name of a class, and tools that join
datasets keep both numberings.
"""

from collections import defaultdict
from pathlib import Path
from typing import Any

import msgspec

from data_prep.annotations.coco_file import CocoFile
from data_prep.wording import shorten
from qdet.data.files.names import shown
from qdet.data.shards.objects import read_integer
from qdet.errors import DataError


def check_same_names(content: CocoFile, file: Path) -> None:
    """Raise DataError naming the categories that share a name, if there are any."""
    same = [
        f"{shown(name)} (ids {', '.join(map(str, ids))})"
        for name, ids in _ids_by_name(content).items()
        if len(ids) > 1 and len(set(ids)) == len(ids)
    ]
    if same:
        raise DataError(
            f"{file} has more than one category of name {shorten(same)}; --merge-categories makes those of "
            "one name one, or rename them"
        )


def merge_same_names(content: CocoFile) -> CocoFile:
    """Return annotations in which categories of one name are one, that of the smallest id."""
    kept = {i: min(ids) for ids in _ids_by_name(content).values() for i in ids}
    annotations = [
        msgspec.structs.replace(one, category_id=kept[number])
        if (number := read_integer(one.category_id)) is not None and number in kept
        else one
        for one in content.annotations
    ]
    categories = [
        entry for entry in content.categories if not _is_in(entry.get("id"), kept) or _is_kept(entry, kept)
    ]
    return CocoFile(content.images, annotations, categories)


def _ids_by_name(content: CocoFile) -> dict[str, list[int]]:
    """Return the ids of every name, blanks aside; entries without either are left to the reader."""
    found: defaultdict[str, list[int]] = defaultdict(list)
    for entry in content.categories:
        name, given = entry.get("name"), read_integer(entry.get("id"))
        if isinstance(name, str) and given is not None:
            found[" ".join(name.split())].append(given)
    return dict(found)


def _is_in(given: Any, kept: dict[int, int]) -> bool:
    return read_integer(given) in kept


def _is_kept(entry: dict[str, Any], kept: dict[int, int]) -> bool:
    number = read_integer(entry["id"])
    return number is not None and kept[number] == number
