"""Read and check a COCO annotation file: every image with its boxes, and counts of what was dropped.

Mistakes that change the meaning of a metric are errors: duplicate ids, unknown categories, unlisted images,
no box left where some are listed. What else is irregular is dropped or mended, and counted; see
`qdet.data.shards.objects`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from data_prep.annotations.coco_file import AnnotationEntry, CocoFile, ImageEntry, name_in_url, read_coco_file
from data_prep.annotations.headers import UNREADABLE, read_header
from data_prep.annotations.same_names import check_same_names, merge_same_names
from data_prep.annotations.spellings import Folder
from data_prep.wording import plural
from qdet.data.files.names import check_file_name, check_id
from qdet.data.shards.categories import Categories
from qdet.data.shards.objects import Given, read_integer, read_object
from qdet.data.shards.report import Report
from qdet.errors import DataError

_LONGEST = 65535
"""Pixels of the longest side of an image that an index holds."""


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
    """Counts of dropped, clipped, filled-in and otherwise irregular entries."""
    listed: dict[str, int]
    """Numbers of `images` and `boxes` in the file, before anything is dropped."""
    first: dict[str, list[str]] = field(default_factory=dict)
    """Where each kind in `report` occurred first."""


def read_annotations(
    file: Path,
    *,
    renumber: bool = False,
    merge_categories: bool = False,
    images_folder: Path | None = None,
    split: str = "",
) -> Annotations:
    """Read and check a COCO annotation file; see `check_content` for the arguments.

    `merge_categories` makes categories of one name one.

    Raises:
        DataError: The file cannot be read or is wrong; the message names file, entry and remedy.
    """
    content = read_coco_file(file)
    merged = merge_same_names(content) if merge_categories else content
    found = check_content(merged, file, renumber=renumber, images_folder=images_folder, split=split)
    less = len(content.categories) - len(merged.categories)
    return replace(found, report=found.report | {"merged_categories": less}) if less else found


def check_content(
    content: CocoFile,
    file: Path,
    *,
    renumber: bool = False,
    images_folder: Path | None = None,
    split: str = "",
) -> Annotations:
    """Check annotations in COCO's form.

    Args:
        content: The annotations.
        file: Where they come from, for errors.
        renumber: Give annotations the ids 1, 2, ... in file order.
        images_folder: Folder of the images, for sizes that are left out.
        split: Name of the split, for errors.

    Raises:
        DataError: They are wrong; the message names file, entry and remedy.
    """
    check_same_names(content, file)
    categories = Categories.from_coco(content.categories, where=str(file))
    if not content.images:
        raise DataError(f"{file} lists no images")
    report = Report()
    records = _parse_images(content.images, file, images_folder, report)
    if not renumber:
        _check_annotation_ids(content.annotations, file)
    _add_annotations(content, records, set(categories.ids), file, renumber, report)
    lost = report.close().explain_loss()
    if lost is not None:
        boxes = f"{plural(report.listed, 'box')}{f' of {split}' if split else ''}"
        raise DataError(f"{file}: none of the {boxes} can be used ({lost}); mend them in the file")
    return Annotations(
        file=file,
        images=tuple(records[i].build() for i in sorted(records)),
        categories=categories,
        report=dict(sorted(report.counts.items())),
        listed={"images": len(content.images), "boxes": len(content.annotations)},
        first=dict(sorted(report.first.items())),
    )


def _add_annotations(
    content: CocoFile,
    records: "dict[int, _Record]",
    known: set[int],
    file: Path,
    renumber: bool,
    report: Report,
) -> None:
    """Add every annotation to the record of its image."""
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


def _parse_images(
    entries: Sequence[ImageEntry], file: Path, folder: Path | None, report: Report
) -> "dict[int, _Record]":
    records: dict[int, _Record] = {}
    names: dict[str, int] = {}
    images = None if folder is None else Folder(folder)
    for number, entry in enumerate(entries, start=1):
        image_id = _check_integer(entry.id, "id", file, "image number", number)
        if image_id in records:
            raise DataError(f"{file} lists image id {image_id} more than once")
        if image_id < 0:
            raise DataError(f"{file}: image ids must be 0 or more, got {image_id}")
        check_id(image_id, what=f"{file}: the image id")
        name = _find_name(entry, folder)
        if not isinstance(name, str) or not name:
            raise DataError(f"{file}: image {image_id} has no file_name")
        check_file_name(name, where=f"{file}: image {image_id}")
        if name in names:
            raise DataError(f"{file}: images {names[name]} and {image_id} are both {name}")
        names[name] = image_id
        width, height = _read_size(entry, name, file, images, report)
        records[image_id] = _Record(image_id, name, width, height)
    return records


def _find_name(entry: ImageEntry, folder: Path | None) -> Any:
    """Return the name of an image; that of its URL may be in one of several folders, as LVIS's are."""
    deeper = name_in_url(entry.coco_url, folders=1)
    if folder is None or deeper is None or entry.file_name != name_in_url(entry.coco_url):
        return entry.file_name
    return entry.file_name if (folder / entry.file_name).is_file() else deeper


def _read_size(
    entry: ImageEntry, name: str, file: Path, folder: Folder | None, report: Report
) -> tuple[int, int]:
    """Return width and height in pixels; those that the file leaves out are in the image's header."""
    if folder is not None and (entry.width is None or entry.height is None):
        report.add("image_sizes_filled_in", name)
        found = read_header(folder.file(name)).size_wh
        return found if found != UNREADABLE else (_LONGEST, _LONGEST)  # packing says what is wrong with it
    width = _check_integer(entry.width, "width", file, "image", entry.id)
    height = _check_integer(entry.height, "height", file, "image", entry.id)
    if not (0 < width <= _LONGEST and 0 < height <= _LONGEST):
        raise DataError(f"{file}: image {entry.id} is {width}x{height}; sides must be 1 to {_LONGEST} pixels")
    return width, height


def _check_integer(value: Any, name: str, file: Path, owner: str, number: object) -> int:
    found = read_integer(value)
    if found is None:
        raise DataError(f"{file}: {owner} {number} needs an integer `{name}`, got {value!r}")
    return found


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
        check_id(i, what=f"{file}: the annotation id")
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

    def add(self, entry: AnnotationEntry, box_id: int, category: int, report: Report) -> None:
        """Add an object; one without a usable box is only counted."""
        content = self._content
        given = Given(entry.bbox, entry.area, entry.iscrowd, entry.ignore, entry.outline)
        read = read_object(given, (content["height"], content["width"]), report, content["file_name"])
        if read is None:
            return
        content["annotation_ids"].append(box_id)
        content["category_ids"].append(category)
        content["boxes_xywh"].append(read.box)
        content["areas"].append(read.area)
        content["iscrowd"].append(read.iscrowd)

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
