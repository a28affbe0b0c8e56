"""Read and check a COCO annotation file: every image with its boxes, and counts of what was dropped.

Mistakes that change the meaning of a metric are errors: duplicate ids, unknown categories, unlisted images.
Boxes without area are dropped; boxes that cross the border are kept (the loader clips them). Both are
counted.
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
    """Number of objects."""
    crowds: int
    """Crowd regions among them."""
    annotation: bytes
    """The shard's JSON for the image."""


@dataclass(frozen=True)
class Annotations:
    """A checked annotation file: images by ascending id."""

    file: Path
    images: tuple[Image, ...]
    categories: Categories
    report: dict[str, int]
    """Counts of dropped, clipped and filled-in entries."""
    listed: dict[str, int]
    """Numbers of `images` and `boxes` in the file, before anything is dropped."""


def read_annotations(file: Path, *, renumber: bool = False) -> Annotations:
    """Read and check a COCO annotation file; `renumber` gives annotations the ids 1, 2, ... in file order.

    Raises:
        DataError: The file cannot be read or is wrong; the message names file, entry and remedy.
    """
    return check_content(read_coco_file(file), file, renumber=renumber)


def check_content(content: CocoFile, file: Path, *, renumber: bool = False) -> Annotations:
    """Check annotations in COCO's form; `file` names in errors where they come from.

    Raises:
        DataError: They are wrong; the message names file, entry and remedy.
    """
    categories = Categories.from_coco(content.categories, where=str(file))
    if not content.images:
        raise DataError(f"{file} lists no images")
    records = _parse_images(content.images, file)
    if not renumber:
        _check_annotation_ids(content.annotations, file)
    report = _add_annotations(content, records, set(categories.ids), file, renumber)
    return Annotations(
        file=file,
        images=tuple(records[i].build() for i in sorted(records)),
        categories=categories,
        report=dict(sorted(report.items())),
        listed={"images": len(content.images), "boxes": len(content.annotations)},
    )


def _add_annotations(
    content: CocoFile, records: "dict[int, _Record]", known: set[int], file: Path, renumber: bool
) -> Counter[str]:
    """Add every annotation to the record of its image; return counts of irregular entries."""
    report: Counter[str] = Counter()
    for number, entry in enumerate(content.annotations, start=1):
        image_id = _check_integer(entry.image_id, "image_id", file, "annotation number", number)
        record = records.get(image_id)
        if record is None:
            raise DataError(
                f"{file}: annotation {_label(entry, number)} is of image {image_id}, which is not listed"
            )
        category = _check_integer(entry.category_id, "category_id", file, "annotation", _label(entry, number))
        if category not in known:
            raise DataError(
                f"{file}: annotation {_label(entry, number)} of image {image_id} has the unknown category "
                f"{category}; add it to `categories` or remove the annotation"
            )
        record.add(entry, number if renumber else entry.id, category, report)
    return report


def _parse_images(entries: Sequence[ImageEntry], file: Path) -> "dict[int, _Record]":
    records: dict[int, _Record] = {}
    names: dict[str, int] = {}
    for number, entry in enumerate(entries, start=1):
        image_id = _check_integer(entry.id, "id", file, "image number", number)
        if image_id in records:
            raise DataError(f"{file} lists image id {image_id} more than once")
        if image_id < 0:
            raise DataError(f"{file}: image ids must be 0 or more, got {image_id}")
        width = _check_integer(entry.width, "width", file, "image", image_id)
        height = _check_integer(entry.height, "height", file, "image", image_id)
        if not (0 < width < 65536 and 0 < height < 65536):
            raise DataError(f"{file}: image {image_id} is {width}x{height}; sides must be 1 to 65535 pixels")
        name = entry.file_name
        if not isinstance(name, str) or not name:
            raise DataError(f"{file}: image {image_id} has no file_name")
        if name in names:
            raise DataError(f"{file}: images {names[name]} and {image_id} are both {name}")
        names[name] = image_id
        records[image_id] = _Record(image_id, name, width, height)
    return records


def _check_integer(value: Any, name: str, file: Path, owner: str, number: object) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise DataError(f"{file}: {owner} {number} needs an integer `{name}`, got {value!r}")
    return value


def _check_annotation_ids(entries: Sequence[AnnotationEntry], file: Path) -> None:
    """COCO's evaluation reads id 0 as "unmatched", and duplicate ids silently change AP."""
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


class _Record:
    """One image's JSON in a shard, collected from its annotations."""

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
        """Add an object; one without a usable box is only counted."""
        content = self._content
        try:
            x, y, w, h = box = [float(value) for value in entry.bbox]
        except (TypeError, ValueError, OverflowError):
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
        # COCO rounds to hundredths of a pixel, so a box may exceed the border by that.
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

    def build(self) -> Image:
        content = self._content
        return Image(
            id=content["image_id"],
            file_name=content["file_name"],
            width=content["width"],
            height=content["height"],
            boxes=len(content["annotation_ids"]),
            crowds=sum(content["iscrowd"]),
            annotation=msgspec.json.encode(content),
        )


def _label(entry: AnnotationEntry, number: int) -> object:
    return f"number {number}" if entry.id is None else entry.id
