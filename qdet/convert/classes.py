"""Which classes a checkpoint's heads know, and leaving out the rows that no class has."""

import re
from collections.abc import Mapping

from torch import Tensor

from qdet.convert.coco import COCO, IDS
from qdet.convert.files import Told
from qdet.convert.layouts import Layout
from qdet.data.shards.categories import Categories
from qdet.errors import CheckpointError

_HEADS = re.compile(r"\bclass_head\.(weight|bias)$")


def with_classes(
    weights: Mapping[str, Tensor], layout: Layout, told: Told, *, everything: bool = False
) -> tuple[dict[str, Tensor], Categories]:
    """Return the weights with a row per class in every class head, and the classes.

    Of heads that count in COCO's ids, 0 to 90, the rows of its 80 classes stay, unless `everything` shall.
    """
    heads = [name for name in weights if _HEADS.search(name)]
    counts = {len(weights[name]) for name in heads}
    if len(counts) != 1:
        raise CheckpointError(f"class heads of a {layout.title} should count alike, got {sorted(counts)}")
    rows = counts.pop()
    count = rows if layout.last_row == "class" else rows - 1
    categories = _categories(count, told, everything)
    kept = list(categories.ids) if count == IDS else list(range(count))
    if layout.last_row == "no object":
        kept.append(rows - 1)
    changed = {name: weights[name][kept] for name in heads}
    if layout.ranks:
        last = max(_number(name) for name in heads)
        ranking = [0, *kept[1:]]  # its other rows are never trained
        changed |= {name: weights[name][ranking] for name in heads if _number(name) == last}
    return dict(weights) | changed, categories


def _number(name: str) -> int:
    """Which head of a list this is of."""
    return int(re.findall(r"\d+", name)[-1])


def _categories(count: int, told: Told, everything: bool) -> Categories:
    """Name `count` classes: by the file, or as COCO's where that has as many, or by number."""
    names = told.names if told.names and len(told.names) == count else None
    first = {IDS: 1, len(COCO): 0}.get(count)  # where COCO's first class would stand
    if first is not None and not everything and (names is None or names[first] == COCO.names[0]):
        return COCO
    ids = range(count)
    return Categories(names=names or tuple(str(i) for i in ids), ids=tuple(ids))
