"""Parse a COCO annotation file: only the fields that a conversion reads, unchecked.

Parsing skips everything else. Segmentations are nine tenths of COCO's own files; without them parsing takes
a tenth of the time and a fraction of the memory.
"""

import json
from pathlib import Path
from typing import Any

import msgspec

from qdet.errors import DataError


class ImageEntry(msgspec.Struct, gc=False):
    """One of `images`."""

    id: Any = None
    file_name: Any = None
    width: Any = None
    height: Any = None


class AnnotationEntry(msgspec.Struct, gc=False):
    """One of `annotations`."""

    id: Any = None
    image_id: Any = None
    category_id: Any = None
    bbox: Any = None
    area: Any = None
    iscrowd: Any = None


class CocoFile(msgspec.Struct):
    """The three lists of a detection dataset."""

    images: list[ImageEntry]
    annotations: list[AnnotationEntry]
    categories: list[dict[str, Any]]


_DECODER = msgspec.json.Decoder(CocoFile)


def read_coco_file(file: Path) -> CocoFile:
    """Parse an annotation file.

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
    try:
        return _DECODER.decode(text)
    except msgspec.DecodeError:
        return _read_leniently(text, file)


def _read_leniently(text: bytes, file: Path) -> CocoFile:
    """Parse with `json`, which accepts the NaN that Python writes; raise DataError if that fails too."""
    try:
        content = json.loads(text)
    except ValueError as error:
        raise DataError(f"{file} is not JSON: {error}") from error
    for name in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(name), list):
            raise DataError(f"{file} is not a COCO detection file: it has no list `{name}`")
    try:
        return msgspec.convert(content, CocoFile)
    except msgspec.ValidationError as error:
        raise DataError(f"{file} is not a COCO detection file: {error}") from error
