"""A COCO annotation file, read and checked: every image with its boxes, and what had to be left out.

Mistakes that change what a metric means are errors: duplicate ids, unknown categories, images that are not
listed. Boxes without area are dropped and boxes that reach over the border kept as they are (reading clips
them); both are counted.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import msgspec

from data_prep.annotations.coco_file import AnnotationEntry, CocoFile, ImageEntry, read_coco_file
from qdet.data.shards.categories import Categories
from qdet.errors import DataError


@dataclass(frozen=True)
class Image:
    """One listed image and the objects in it."""

    id: int
    file_name: str
    width: int
    height: int
    boxes: int
    """How many objects."""
    crowds: int
    """How many of them are crowd regions."""
    note: bytes
    """What a shard says of the image, as JSON."""


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
    content = read_coco_file(file)
    categories = Categories.from_coco(content.categories, where=str(file))
    if not content.images:
        raise DataError(f"{file} lists no images")
    notes = _notes(content.images, file)
    if not renumber:
        _check_annotation_ids(content.annotations, file)
    report = _take_in(content, notes, set(categories.ids), file, renumber)
    return Annotations(
        file=file,
        images=tuple(notes[i].image() for i in sorted(notes)),
        categories=categories,
        report=dict(sorted(report.items())),
        listed={"images": len(content.images), "boxes": len(content.annotations)},
    )


def _take_in(
    content: CocoFile, notes: "dict[int, _Note]", known: set[int], file: Path, renumber: bool
) -> Counter[str]:
    """Put every annotation into the note of its image; return counts of what was not as it should be."""
    report: Counter[str] = Counter()
    for number, entry in enumerate(content.annotations, start=1):
        image_id = _integer(entry.image_id, "image_id", file, "annotation number", number)
        note = notes.get(image_id)
        if note is None:
            raise DataError(
                f"{file}: annotation {_shown(entry, number)} is of image {image_id}, which is not listed"
            )
        category = _integer(entry.category_id, "category_id", file, "annotation", _shown(entry, number))
        if category not in known:
            raise DataError(
                f"{file}: annotation {_shown(entry, number)} of image {image_id} has the unknown category "
                f"{category}; add it to `categories` or remove the annotation"
            )
        note.add(entry, number if renumber else entry.id, category, report)
    return report


def _notes(entries: Sequence[ImageEntry], file: Path) -> "dict[int, _Note]":
    notes: dict[int, _Note] = {}
    names: dict[str, int] = {}
    for number, entry in enumerate(entries, start=1):
        image_id = _integer(entry.id, "id", file, "image number", number)
        if image_id in notes:
            raise DataError(f"{file} lists image id {image_id} more than once")
        if image_id < 0:
            raise DataError(f"{file}: image ids must be 0 or more, got {image_id}")
        width = _integer(entry.width, "width", file, "image", image_id)
        height = _integer(entry.height, "height", file, "image", image_id)
        if not (0 < width < 65536 and 0 < height < 65536):
            raise DataError(f"{file}: image {image_id} is {width}x{height}; sides must be 1 to 65535 pixels")
        name = entry.file_name
        if not isinstance(name, str) or not name:
            raise DataError(f"{file}: image {image_id} has no file_name")
        if name in names:
            raise DataError(f"{file}: images {names[name]} and {image_id} are both {name}")
        names[name] = image_id
        notes[image_id] = _Note(image_id, name, width, height)
    return notes


def _integer(value: Any, name: str, file: Path, owner: str, number: object) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise DataError(f"{file}: {owner} {number} needs an integer `{name}`, got {value!r}")
    return value


def _check_annotation_ids(entries: Sequence[AnnotationEntry], file: Path) -> None:
    """COCO's evaluation reads id 0 as "unmatched", and a duplicate id changes AP without a word."""
    hint = "; --renumber gives all annotations new ids"
    seen: set[int] = set()
    for number, entry in enumerate(entries, start=1):
        i = entry.id
        if not isinstance(i, int) or isinstance(i, bool):
            raise DataError(f"{file}: annotation number {number} needs an integer `id`, got {i!r}{hint}")
        if i == 0:
            raise DataError(
                f"{file}: annotation number {number} has id 0, which COCO's evaluation ignores{hint}"
            )
        if i in seen:
            raise DataError(f"{file} has annotation id {i} more than once{hint}")
        seen.add(i)


class _Note:
    """What a shard will say of one image, gathered from the annotations as they come."""

    def __init__(self, image_id: int, file_name: str, width: int, height: int) -> None:
        self._content: dict[str, Any] = {
            "image_id": image_id,
            "file_name": file_name,
            "width": width,
            "height": height,
            "annotation_ids": [],
            "category_ids": [],
            "boxes_xywh": [],
            "areas": [],
            "iscrowd": [],
        }

    def add(self, entry: AnnotationEntry, box_id: int, category: int, report: Counter[str]) -> None:
        """Take in an object; one without a usable box is only counted."""
        content = self._content
        try:
            x, y, w, h = box = [float(value) for value in entry.bbox]
        except (TypeError, ValueError):
            report["dropped_unreadable_box"] += 1
            return
        width, height = content["width"], content["height"]
        if not (isfinite(x) and isfinite(y) and isfinite(w) and isfinite(h)):
            report["dropped_not_finite"] += 1
            return
        if w <= 0 or h <= 0:
            report["dropped_zero_area"] += 1
            return
        if x >= width or y >= height or x + w <= 0 or y + h <= 0:
            report["dropped_outside_image"] += 1
            return
        # COCO rounds to hundredths, so a box at the border may exceed it by as much.
        if x < -0.01 or y < -0.01 or x + w > width + 0.01 or y + h > height + 0.01:
            report["clipped"] += 1
        area = entry.area
        if not isinstance(area, int | float) or not isfinite(area):
            report["area_filled_in"] += 1
            area = w * h
        content["annotation_ids"].append(box_id)
        content["category_ids"].append(category)
        content["boxes_xywh"].append(box)
        content["areas"].append(float(area))
        content["iscrowd"].append(int(entry.iscrowd in (1, "1")))

    def image(self) -> Image:
        content = self._content
        return Image(
            id=content["image_id"],
            file_name=content["file_name"],
            width=content["width"],
            height=content["height"],
            boxes=len(content["annotation_ids"]),
            crowds=sum(content["iscrowd"]),
            note=msgspec.json.encode(content),
        )


def _shown(entry: AnnotationEntry, number: int) -> object:
    return f"number {number}" if entry.id is None else entry.id
