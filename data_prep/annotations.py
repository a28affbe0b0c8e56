"""A COCO annotation file, read and checked: every image with its boxes, and what had to be left out.

Mistakes that change what a metric means are errors: duplicate ids, unknown categories, images that are not
listed. Boxes without area are dropped and boxes that reach over the border kept as they are (reading clips
them); both are counted.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qdet.data.categories import Categories
from qdet.errors import DataError


@dataclass(frozen=True, slots=True)
class Box:
    """One annotated object; `xywh` in pixels of the image file as annotated."""

    id: int
    category_id: int
    xywh: tuple[float, float, float, float]
    area: float
    iscrowd: int


@dataclass(frozen=True, slots=True)
class Image:
    """One listed image and the objects in it."""

    id: int
    file_name: str
    width: int
    height: int
    boxes: tuple[Box, ...]


@dataclass(frozen=True)
class Annotations:
    """A checked annotation file: images by ascending id."""

    file: Path
    images: tuple[Image, ...]
    categories: Categories
    report: dict[str, int]
    """Counts of what was dropped, clipped or filled in."""
    listed: dict[str, int]
    """How many `images` and `boxes` the file lists, before anything was dropped."""


def read_annotations(file: Path, *, renumber: bool = False) -> Annotations:
    """Read and check a COCO annotation file; `renumber` gives annotations the ids 1, 2, ... in file order."""
    content = _parsed(file)
    categories = Categories.from_coco(content["categories"], where=str(file))
    if not content["images"]:
        raise DataError(f"{file} lists no images")
    sizes = _sizes(content["images"], file)
    _check_annotation_ids(content["annotations"], file, renumber)
    report: Counter[str] = Counter()
    boxes: dict[int, list[Box]] = {image_id: [] for image_id in sizes}
    known = set(categories.ids)
    for number, entry in enumerate(content["annotations"], start=1):
        image_id = _field(entry, "image_id", file, f"annotation number {number}")
        if image_id not in sizes:
            raise DataError(
                f"{file}: annotation {_shown(entry, number)} is of image {image_id}, which is not listed"
            )
        category = _field(entry, "category_id", file, f"annotation {_shown(entry, number)}")
        if category not in known:
            raise DataError(
                f"{file}: annotation {_shown(entry, number)} of image {image_id} has the unknown category "
                f"{category}; add it to `categories` or remove the annotation"
            )
        _, width, height = sizes[image_id]
        box = _box(entry, number if renumber else entry["id"], (width, height), report)
        if box is not None:
            boxes[image_id].append(box)
    images = tuple(
        Image(id=i, file_name=name, width=width, height=height, boxes=tuple(boxes[i]))
        for i, (name, width, height) in sorted(sizes.items())
    )
    return Annotations(
        file=file,
        images=images,
        categories=categories,
        report=dict(sorted(report.items())),
        listed={"images": len(content["images"]), "boxes": len(content["annotations"])},
    )


def _parsed(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise DataError(f"{file} is not there; name the annotation file with --annotations")
    try:
        text = file.read_bytes()
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror or error}") from error
    if not text.strip():
        raise DataError(f"{file} is empty")
    try:
        content = json.loads(text)
    except ValueError as error:
        raise DataError(f"{file} is not JSON: {error}") from error
    for name in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(name), list):
            raise DataError(f"{file} is no COCO detection file: it has no list `{name}`")
    return content


def _sizes(entries: Sequence[Mapping[str, Any]], file: Path) -> dict[int, tuple[str, int, int]]:
    sizes: dict[int, tuple[str, int, int]] = {}
    names: dict[str, int] = {}
    for number, entry in enumerate(entries, start=1):
        image_id = _field(entry, "id", file, f"image number {number}")
        if image_id in sizes:
            raise DataError(f"{file} lists image id {image_id} more than once")
        if image_id < 0:
            raise DataError(f"{file}: image ids must be 0 or more, got {image_id}")
        width, height = (_field(entry, side, file, f"image {image_id}") for side in ("width", "height"))
        if not (0 < width < 65536 and 0 < height < 65536):
            raise DataError(f"{file}: image {image_id} is {width}x{height}; sides must be 1 to 65535 pixels")
        name = entry.get("file_name")
        if not isinstance(name, str) or not name:
            raise DataError(f"{file}: image {image_id} has no file_name")
        if name in names:
            raise DataError(f"{file}: images {names[name]} and {image_id} are both {name}")
        names[name] = image_id
        sizes[image_id] = (name, width, height)
    return sizes


def _field(entry: Mapping[str, Any], name: str, file: Path, owner: str) -> int:
    value = entry.get(name) if isinstance(entry, Mapping) else None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise DataError(f"{file}: {owner} needs an integer `{name}`, got {value!r}")
    return value


def _check_annotation_ids(entries: Sequence[Mapping[str, Any]], file: Path, renumber: bool) -> None:
    """COCO's evaluation reads id 0 as "unmatched", and a duplicate id changes AP without a word."""
    if renumber:
        return
    hint = "; --renumber gives all annotations new ids"
    seen: set[int] = set()
    for number, entry in enumerate(entries, start=1):
        i = entry.get("id") if isinstance(entry, Mapping) else None
        if not isinstance(i, int) or isinstance(i, bool):
            raise DataError(f"{file}: annotation number {number} needs an integer `id`, got {i!r}{hint}")
        if i == 0:
            raise DataError(
                f"{file}: annotation number {number} has id 0, which COCO's evaluation ignores{hint}"
            )
        if i in seen:
            raise DataError(f"{file} has annotation id {i} more than once{hint}")
        seen.add(i)


def _box(entry: Mapping[str, Any], box_id: int, size: tuple[int, int], report: Counter[str]) -> Box | None:
    try:
        x, y, w, h = (float(value) for value in entry["bbox"])
    except (KeyError, TypeError, ValueError):
        report["dropped_unreadable_box"] += 1
        return None
    if not all(map(math.isfinite, (x, y, w, h))):
        report["dropped_not_finite"] += 1
        return None
    if w <= 0 or h <= 0:
        report["dropped_zero_area"] += 1
        return None
    if x >= size[0] or y >= size[1] or x + w <= 0 or y + h <= 0:
        report["dropped_outside_image"] += 1
        return None
    # COCO rounds to hundredths, so a box at the border may exceed it by as much.
    if min(x, y) < -0.01 or x + w > size[0] + 0.01 or y + h > size[1] + 0.01:
        report["clipped"] += 1
    area = entry.get("area")
    if not isinstance(area, int | float) or not math.isfinite(area):
        report["area_filled_in"] += 1
        area = w * h
    return Box(
        id=box_id,
        category_id=int(entry["category_id"]),
        xywh=(x, y, w, h),
        area=float(area),
        iscrowd=int(entry.get("iscrowd") in (1, "1")),
    )


def _shown(entry: Mapping[str, Any], number: int) -> str:
    return str(entry.get("id", f"number {number}"))
