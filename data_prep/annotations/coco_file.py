"""Parse a COCO annotation file: only the fields that a conversion reads, unchecked.

Parsing skips everything else. Segmentations are nine tenths of COCO's own files; without them parsing takes
a tenth of the time and a fraction of the memory. They are read only where an object has no box.
"""

import posixpath
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit

import msgspec

from qdet.data.files.json_text import load_json, plain_json
from qdet.data.shards.objects import read_box, read_integer
from qdet.errors import DataError


class ImageEntry(msgspec.Struct, gc=False):
    """One of `images`."""

    id: Any = None
    file_name: Any = None
    width: Any = None
    height: Any = None
    coco_url: Any = None


class AnnotationEntry(msgspec.Struct, gc=False):
    """One of `annotations`."""

    id: Any = None
    image_id: Any = None
    category_id: Any = None
    bbox: Any = None
    area: Any = None
    iscrowd: Any = None
    ignore: Any = None
    outline: ClassVar[Any] = None
    """Its segmentation, where that was read."""


class OutlinedEntry(AnnotationEntry, gc=False):
    """One of `annotations`, with its segmentation."""

    segmentation: Any = None

    @property
    def outline(self) -> Any:  # type: ignore[override]
        """Its segmentation."""
        return self.segmentation


class CocoFile(msgspec.Struct):
    """The three lists of a detection dataset."""

    images: list[ImageEntry]
    annotations: Sequence[AnnotationEntry]
    categories: list[dict[str, Any]]


class _Brief(msgspec.Struct):
    images: list[ImageEntry]
    annotations: list[AnnotationEntry]
    categories: list[dict[str, Any]]


class _Outlined(msgspec.Struct):
    images: list[ImageEntry]
    annotations: list[OutlinedEntry]
    categories: list[dict[str, Any]]


_DECODER = msgspec.json.Decoder(_Brief)


def read_coco_file(file: Path) -> CocoFile:
    """Parse an annotation file; ids in quotes become numbers, names in `coco_url` stand in for missing ones.

    Raises:
        DataError: The file is missing, unreadable, or lacks one of the lists `images`, `annotations` and
            `categories`.
    """
    if not file.is_file():
        raise DataError(f"{file} does not exist; name the annotation file with --annotations")
    try:
        text = file.read_bytes()
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror or error}") from error
    if not text.strip():
        raise DataError(f"{file} is empty")
    text = plain_json(text, where=str(file))
    content = _parse(text, file)
    _refuse_panoptic(content, text, file)
    return _tidy(content)


def _parse(text: bytes, file: Path) -> CocoFile:
    try:
        content = _DECODER.decode(text)
        if all(_has_box(entry.bbox) for entry in content.annotations):
            return CocoFile(content.images, content.annotations, content.categories)
        outlined = msgspec.json.decode(text, type=_Outlined)
        return CocoFile(outlined.images, outlined.annotations, outlined.categories)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _read_leniently(text, file)


def _has_box(bbox: Any) -> bool:
    return (type(bbox) is list and len(bbox) == 4 and None not in bbox) or read_box(bbox) is not None


def _read_leniently(text: bytes, file: Path) -> CocoFile:
    """Parse with `json`, which accepts the NaN that Python writes; raise DataError if that fails too."""
    content = load_json(text, where=str(file))
    for name in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(name), list):
            raise DataError(f"{file} is not a COCO detection file: it has no list `{name}`")
    try:
        outlined = msgspec.convert(content, _Outlined)
        return CocoFile(outlined.images, outlined.annotations, outlined.categories)
    except (msgspec.ValidationError, RecursionError) as error:
        raise DataError(f"{file} is not a COCO detection file: {error}") from error


def _refuse_panoptic(content: CocoFile, text: bytes, file: Path) -> None:
    """Raise DataError for a panoptic file, whose annotations list the segments of a whole image."""
    first = content.annotations[0] if content.annotations else None
    if first is not None and first.bbox is None and b'"segments_info"' in text:
        raise DataError(
            f"{file} is a panoptic file: it has `segments_info` where boxes are read from `bbox`; give the "
            "file of objects that comes with it, such as instances_train2017.json"
        )


def _tidy(content: CocoFile) -> CocoFile:
    for image in content.images:
        image.id = _unquote(image.id)
        if image.file_name is None:
            image.file_name = name_in_url(image.coco_url)
    for entry in content.annotations:
        entry.id, entry.image_id = _unquote(entry.id), _unquote(entry.image_id)
        entry.category_id = _unquote(entry.category_id)
    return content


def _unquote(value: Any) -> Any:
    """Return the number in a text that is one; anything else as it is."""
    if not isinstance(value, str):
        return value
    number = read_integer(value)
    return value if number is None else number


def name_in_url(url: Any, folders: int = 0) -> str | None:
    """Return the name of the file behind a URL, with the last `folders` folders before it; None without one.

    LVIS names its images so: http://images.cocodataset.org/train2017/000000391895.jpg.
    """
    if not isinstance(url, str):
        return None
    try:
        path = unquote(urlsplit(url).path)
    except ValueError:
        return None
    parts = [part for part in path.split("/") if part not in ("", ".", "..")]
    return posixpath.join(*parts[-1 - folders :]) if parts else None
