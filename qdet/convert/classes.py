"""The classes of a checkpoint's heads, without the rows that belong to no class."""

import re
from collections.abc import Mapping

from torch import Tensor

from qdet.convert.files import Metadata
from qdet.convert.layouts import Layout
from qdet.data.shards.categories import Categories
from qdet.errors import CheckpointError

_EMBEDDING = re.compile(r"\blabels\.weight$")
_HEADS = re.compile(r"\bclass_head\.(weight|bias)$")


def with_classes(
    weights: Mapping[str, Tensor], layout: Layout, metadata: Metadata, *, everything: bool = False
) -> tuple[dict[str, Tensor], Categories]:
    """Return the weights with one row per class in every class head, and the classes.

    Of heads indexed by COCO's ids, 0 to 90, only the rows of its 80 classes are kept, unless `everything`;
    of embeddings of labels as well.
    """
    heads = [name for name in weights if _HEADS.search(name)]
    counts = {len(weights[name]) for name in heads}
    if len(counts) != 1:
        raise CheckpointError(f"class heads of {layout.title} should have equal sizes, got {sorted(counts)}")
    rows = counts.pop()
    count = rows if layout.last_row == "class" else rows - 1
    categories = _categories(count, metadata, everything)
    kept = list(categories.ids) if count == IDS else list(range(count))
    if layout.last_row == "no object":
        kept.append(rows - 1)
    changed = {name: weights[name][kept] for name in heads}
    for name in [name for name in weights if _EMBEDDING.search(name)]:
        changed[name] = weights[name][[*kept, len(weights[name]) - 1]]  # and "unknown", the last one
    if layout.ranks:
        last = max(_number(name) for name in heads)
        ranking = [0, *kept[1:]]  # its other rows are never trained
        changed |= {name: weights[name][ranking] for name in heads if _number(name) == last}
    return dict(weights) | changed, categories


def _number(name: str) -> int:
    """Return the index of the head that a tensor belongs to."""
    return int(re.findall(r"\d+", name)[-1])


def _categories(count: int, metadata: Metadata, everything: bool) -> Categories:
    """Name `count` classes: from the file, as COCO's if the count fits, or by number."""
    names = metadata.names if metadata.names and len(metadata.names) == count else None
    first = {IDS: 1, len(COCO): 0}.get(count)  # the row before COCO's first class
    if first is not None and not everything and (names is None or names[first] == COCO.names[0]):
        return COCO
    named = names or [str(i) for i in range(count)]
    entries = [{"id": i, "name": name} for i, name in enumerate(named)]
    return Categories.from_coco(entries, where="the checkpoint's metadata")


_CLASSES = """
1 person, 2 bicycle, 3 car, 4 motorcycle, 5 airplane, 6 bus, 7 train, 8 truck, 9 boat, 10 traffic light,
11 fire hydrant, 13 stop sign, 14 parking meter, 15 bench, 16 bird, 17 cat, 18 dog, 19 horse, 20 sheep,
21 cow, 22 elephant, 23 bear, 24 zebra, 25 giraffe, 27 backpack, 28 umbrella, 31 handbag, 32 tie,
33 suitcase, 34 frisbee, 35 skis, 36 snowboard, 37 sports ball, 38 kite, 39 baseball bat,
40 baseball glove, 41 skateboard, 42 surfboard, 43 tennis racket, 44 bottle, 46 wine glass, 47 cup,
48 fork, 49 knife, 50 spoon, 51 bowl, 52 banana, 53 apple, 54 sandwich, 55 orange, 56 broccoli,
57 carrot, 58 hot dog, 59 pizza, 60 donut, 61 cake, 62 chair, 63 couch, 64 potted plant, 65 bed,
67 dining table, 70 toilet, 72 tv, 73 laptop, 74 mouse, 75 remote, 76 keyboard, 77 cell phone,
78 microwave, 79 oven, 80 toaster, 81 sink, 82 refrigerator, 84 book, 85 clock, 86 vase, 87 scissors,
88 teddy bear, 89 hair drier, 90 toothbrush
"""

_PAIRS = re.findall(r"(\d+) ([a-z ]+)", _CLASSES)

COCO = Categories(names=tuple(name for _, name in _PAIRS), ids=tuple(int(i) for i, _ in _PAIRS))
"""The classes of COCO detection with their ids in its annotation files."""

IDS = 91
"""Logits of a head indexed by those ids, from 0 on."""
