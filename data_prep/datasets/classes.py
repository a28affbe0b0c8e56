"""Classes of the splits: all the same, under the same numbers."""

from collections.abc import Mapping
from dataclasses import replace

import msgspec

from data_prep.annotations.coco_file import CocoFile
from data_prep.datasets.labels import Part
from data_prep.wording import quote, shorten
from qdet.errors import DataError


def adopt_classes(part: Part, other: Part) -> Part:
    """Number the classes of a part that does not declare them as `other` does; new ones come after."""
    if part.declared:
        return part
    names = {entry["id"]: entry["name"] for entry in part.content.categories}
    ids = {str(entry.get("name")): entry.get("id") for entry in other.content.categories}
    free = max((i for i in ids.values() if isinstance(i, int)), default=0) + 1
    extra = [name for name in names.values() if name not in ids]
    ids.update((name, free + k) for k, name in enumerate(extra))
    annotations = [
        msgspec.structs.replace(one, category_id=ids[names[one.category_id]])
        for one in part.content.annotations
    ]
    categories = [{"id": i, "name": name} for name, i in ids.items()]
    return replace(part, content=CocoFile(part.content.images, annotations, categories))


def check_classes(parts: Mapping[str, Part]) -> None:
    """Raise DataError unless all splits have the classes of the first.

    Where classes are known from objects alone, a split may lack some, but none may be new in it.
    """
    first = next(iter(parts))
    known = _classes(parts[first])
    for split, part in parts.items():
        classes = _classes(part)
        extra = [name for name in classes if name not in known]
        missing = [name for name in known if name not in classes] if part.declared else []
        if extra or missing:
            raise DataError(_describe_difference(parts, first, split, missing, extra))
        if any(known[name] != i for name, i in classes.items()):
            raise DataError(
                f"{parts[first].source} and {part.source} number the same classes differently: "
                f"{_pairs(known)} in {first}, {_pairs(classes)} in {split}; use one numbering"
            )


def _describe_difference(
    parts: Mapping[str, Part], first: str, split: str, missing: list[str], extra: list[str]
) -> str:
    sides = [
        f"only {side} has {shorten([quote(name) for name in only], 20)}"
        for side, only in ((first, missing), (split, extra))
        if only
    ]
    both = " and ".join(
        f"{side} ({parts[side].source}: {shorten([quote(n) for n in _classes(parts[side])], 20)})"
        for side in (first, split)
    )
    return f"{both} do not have the same classes: {'; '.join(sides)}; give all splits the same classes"


def _classes(part: Part) -> dict[str, object]:
    """Return the classes of a split with their ids: those it declares, or those of its objects."""
    used = None if part.declared else {one.category_id for one in part.content.annotations}
    return {
        str(entry.get("name")): entry.get("id")
        for entry in part.content.categories
        if used is None or entry.get("id") in used
    }


def _pairs(classes: Mapping[str, object]) -> str:
    return shorten([f"{i} {name}" for name, i in classes.items()], 10)
