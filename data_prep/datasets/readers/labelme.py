"""LabelMe: a JSON file beside each image, with shapes drawn by hand.

Rectangles, polygons, circles and masks become the boxes around them; shapes with one label and `group_id` are
one object. Points and lines have no box. An image without a JSON file is not labelled yet and left out.
"""

import math
import posixpath
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from data_prep.datasets.files import read_json
from data_prep.datasets.labels import (
    Box,
    Found,
    Labels,
    build_parts,
    check_missing,
    enclose,
    label_name,
    numbers,
)
from data_prep.datasets.splits import group_by_split
from data_prep.datasets.tree import Tree
from data_prep.wording import quote
from qdet.errors import DataError

_SHAPES = ("rectangle", "polygon", "circle", "mask")


class Shape(msgspec.Struct):
    """One of `shapes`."""

    label: Any = None
    points: Any = None
    group_id: Any = None
    shape_type: Any = "polygon"


class Annotation(msgspec.Struct):
    """A JSON file; the image that may be inside is skipped."""

    shapes: list[Shape]
    image_path: Any = msgspec.field(name="imagePath", default=None)
    width: Any = msgspec.field(name="imageWidth", default=None)
    height: Any = msgspec.field(name="imageHeight", default=None)


def read(tree: Tree, files: Sequence[str]) -> Found:
    """Read the LabelMe dataset of some JSON files.

    Raises:
        DataError: A JSON file is wrong, or an image is missing; the message names the file.
    """
    notes: Counter[str] = Counter()
    labels: dict[str, Labels] = {}
    missing = []
    for name in files:
        annotation = read_json(tree.path(name), Annotation)
        image = _find_image(annotation, name, tree)
        if image is None:
            missing.append(f"{annotation.image_path} ({name})")
        elif image in labels:
            raise DataError(
                f"{tree.path(name)}: another JSON file is of the same image, {quote(image)}; remove one"
            )
        else:
            labels[image] = _read_labels(image, annotation, str(tree.path(name)), notes)
    check_missing(missing, tree.root, "its JSON files are of")
    left_out = len(tree.images()) - len(labels)
    if left_out:
        notes["images without a JSON file, left out"] += left_out
    splits = group_by_split(labels, notes)
    return Found(
        build_parts(tree, {split: [labels[i] for i in images] for split, images in splits.items()}, None),
        notes=notes,
    )


def _find_image(annotation: Annotation, name: str, tree: Tree) -> str | None:
    """Return the image that `imagePath` gives, or the one of the file's own name."""
    folder = posixpath.dirname(name)
    found = tree.look_up(annotation.image_path, base=folder, where=str(tree.path(name)))
    if found in tree.files:
        return found
    return tree.image_of_stem.get(posixpath.splitext(name)[0])


def _read_labels(image: str, annotation: Annotation, where: str, notes: Counter[str]) -> Labels:
    shapes = [shape for shape in annotation.shapes if shape.shape_type in _SHAPES]
    if len(shapes) < len(annotation.shapes):
        notes["points, lines and other shapes without a box, left out"] += len(annotation.shapes) - len(
            shapes
        )
    boxes = [_read_group(group, where, notes) for group in _group(shapes)]
    return Labels(image, boxes, _read_size(annotation))


def _group(shapes: Sequence[Shape]) -> Iterator[list[Shape]]:
    """Yield the shapes of each object."""
    groups: dict[object, list[Shape]] = {}
    for number, shape in enumerate(shapes):
        key = number if shape.group_id is None else (quote(shape.label), quote(shape.group_id))
        groups.setdefault(key, []).append(shape)
    yield from groups.values()


def _read_group(shapes: Sequence[Shape], where: str, notes: Counter[str]) -> Box:
    label = label_name(shapes[0].label, where)
    if len(shapes) > 1:
        notes["shapes joined to one object by their group_id"] += len(shapes)
    try:
        return Box(label, enclose(point for shape in shapes for point in _outline(shape)))
    except (TypeError, ValueError):
        return Box(label, None)


def _outline(shape: Shape) -> list[tuple[float, float]]:
    """Return points whose enclosing box is the shape's; ValueError or TypeError if it has none."""
    points = [(x, y) for x, y in (numbers(point) for point in shape.points)]
    if shape.shape_type == "circle":
        (x, y), (edge_x, edge_y) = points
        radius = math.hypot(edge_x - x, edge_y - y)
        return [(x - radius, y - radius), (x + radius, y + radius)]
    if not points:
        raise ValueError("no points")
    return points


def _read_size(annotation: Annotation) -> tuple[int, int] | None:
    given = annotation.width, annotation.height
    if not all(type(side) is int and 0 < side < 65536 for side in given):
        return None
    return given
