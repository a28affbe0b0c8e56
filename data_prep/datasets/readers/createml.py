"""CreateML: a JSON list of images, with the centre and size of each box in pixels.

Images are in the folder of the JSON file, or below it. Apple writes `imagefilename` and `annotation`,
Roboflow `image` and `annotations`; both are read.
"""

import posixpath
from collections import Counter
from typing import Any

import msgspec

from data_prep.datasets.files import read_json
from data_prep.datasets.labels import Box, Found, Labels, build_parts, check_missing, label_name, numbers
from data_prep.datasets.splits import group_by_split
from data_prep.datasets.tree import Tree
from data_prep.wording import quote
from qdet.errors import DataError


class Object(msgspec.Struct):
    """One of `annotations`."""

    label: Any = None
    coordinates: Any = None


class Entry(msgspec.Struct):
    """One image."""

    image: Any = None
    imagefilename: Any = None
    annotations: list[Object] | None = None
    annotation: list[Object] | None = None


def read(tree: Tree, files: list[str]) -> Found:
    """Read the CreateML dataset of some JSON files.

    Raises:
        DataError: A file is wrong, or an image is missing; the message names the file.
    """
    notes: Counter[str] = Counter()
    labels: dict[str, Labels] = {}
    for name in files:
        _read_file(name, tree, labels)
    left_out = len(tree.images()) - len(labels)
    if left_out:
        notes["images that no JSON file lists, left out"] += left_out
    splits = group_by_split(labels, notes)
    return Found(
        build_parts(tree, {split: [labels[i] for i in images] for split, images in splits.items()}, None),
        notes=notes,
    )


def _read_file(name: str, tree: Tree, labels: dict[str, Labels]) -> None:
    file, missing = tree.path(name), []
    for entry in read_json(file, list[Entry]):
        given = entry.imagefilename if entry.image is None else entry.image
        image = tree.look_up(given, base=posixpath.dirname(name), where=str(file))
        if image not in tree.files:
            missing.append(str(given))
        elif image in labels:
            raise DataError(f"{file} lists {quote(image)} more than once")
        else:
            objects = entry.annotation if entry.annotations is None else entry.annotations
            labels[image] = Labels(image, [_read_object(one, str(file)) for one in objects or ()])
    check_missing(missing, file, "it lists")


def _read_object(one: Object, where: str) -> Box:
    label = label_name(one.label, where)
    try:
        x, y, w, h = numbers(one.coordinates[side] for side in ("x", "y", "width", "height"))
    except (TypeError, ValueError, KeyError, IndexError):
        return Box(label, None)
    return Box(label, (x - w / 2, y - h / 2, w, h))
