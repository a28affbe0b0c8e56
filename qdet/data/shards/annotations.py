"""The JSON beside an image: its objects, its id and size, and the classes that it explains.

`qdet.data.shards.forms` knows the forms that it may have. What is irregular in an object is treated as a
conversion does, by `qdet.data.shards.objects`.
"""

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from qdet.data.files.names import check_file_name, clean_name
from qdet.data.image.judge import check_size, judge
from qdet.data.image.orientation import orientation_of
from qdet.data.shards.categories import Categories
from qdet.data.shards.forms import Kind, list_objects, read_kind
from qdet.data.shards.objects import Object, read_integer, read_object
from qdet.data.shards.report import Report
from qdet.errors import DataError
from qdet.storage.parsing import parse_json


@dataclass(frozen=True)
class Annotations:
    """The objects of one image, in columns, and what else its JSON says."""

    kinds: tuple[Kind, ...]
    boxes_xywh: tuple[tuple[float, float, float, float], ...]
    areas: tuple[float, ...]
    iscrowd: tuple[int, ...]
    image_id: int | None
    file_name: str | None
    size_hw: tuple[int, int] | None
    """None where the JSON does not say it; the image file does."""
    categories: tuple[tuple[int, str], ...]
    """Ids and names of classes that the JSON itself gives."""


def read_annotations(
    data: bytes, *, name: str, size_hw: tuple[int, int], report: Report | None = None
) -> Annotations:
    """Read a sample's JSON.

    Args:
        data: The JSON.
        name: Which sample it is, for errors and the report.
        size_hw: Height and width of its image in pixels.
        report: Counts irregular objects.

    Raises:
        DataError: It cannot be read, or is in no known form.
    """
    said = _parse(data, name)
    report = Report() if report is None else report
    try:
        return _read(said, name, size_hw, report)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DataError(
            f"{name}: its JSON is in no known form ({type(error).__name__}: {error}); "
            "see qdet/data/shards/forms.py for those that are"
        ) from error


def read_sample(
    image: bytes, text: bytes, *, name: str, max_pixels: int, report: Report
) -> tuple[tuple[int, int], Annotations]:
    """Read an image's size, by its header, and the JSON beside it.

    Args:
        image: The image file.
        text: The JSON.
        name: Which sample it is, for errors and the report.
        max_pixels: Larger images are refused.
        report: Counts what is irregular.

    Returns:
        Height and width in pixels, and the objects.

    Raises:
        DataError: The sample cannot be used.
    """
    shown, mine = f"{name}: the image", Report()
    hw = judge(image, name=shown, max_pixels=max_pixels).size_hw
    read = read_annotations(text, name=name, size_hw=hw, report=mine)
    if read.size_hw is not None:
        check_size(image, hw, read.size_hw, name=shown, source="its JSON says")
    if orientation_of(image, name=shown) != 1:
        mine.add("images_with_EXIF_orientation", name)
    report.merge(mine)
    return hw, read


def read_image_id(data: bytes, *, name: str) -> int | None:
    """Return the image's id in a sample's JSON, or None; DataError where it cannot be read at all."""
    said = _parse(data, name)
    try:
        return _image_id(_about(_whole(said)))
    except (TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{name}: its JSON gives no image id ({error})") from error


def _parse(data: bytes, name: str) -> Any:
    try:
        return parse_json(data)
    except ValueError as error:
        raise DataError(f"{name}: its JSON cannot be read ({error})") from error


def _whole(said: Any) -> Mapping[str, Any]:
    return {"annotations": said} if isinstance(said, list) else said


def _about(said: Mapping[str, Any]) -> Mapping[str, Any]:
    image = said.get("image")
    return image if isinstance(image, Mapping) else said


def _read(said: Any, name: str, size_hw: tuple[int, int], report: Report) -> Annotations:
    said = _whole(said)
    about = _about(said)
    found: list[tuple[Kind, Object]] = []
    for given_kind, given in list(list_objects(said)):
        kind = read_kind(given_kind)
        if kind is None:
            report.listed += 1
            report.add("dropped_without_class", name, given_kind)
        elif (read := read_object(given, size_hw, report, name)) is not None:
            found.append((kind, read))
    width, height = about.get("width"), about.get("height")
    return Annotations(
        kinds=tuple(kind for kind, _ in found),
        boxes_xywh=tuple(one.box for _, one in found),
        areas=tuple(one.area for _, one in found),
        iscrowd=tuple(one.iscrowd for _, one in found),
        image_id=_image_id(about),
        file_name=_file_name(about),
        size_hw=None if width is None or height is None else (int(height), int(width)),
        categories=_categories(said),
    )


def _image_id(about: Mapping[str, Any]) -> int | None:
    given = read_integer(about.get("image_id", about.get("id")))
    if given is not None and not -(2**63) <= given < 2**63:
        raise ValueError(f"image id {given} has more than 64 bits")
    return given


def _file_name(about: Mapping[str, Any]) -> str | None:
    """Return the name that an image had; None of what is no name: the sample's key stands for it."""
    name = about.get("file_name")
    if not isinstance(name, str):
        return None
    with suppress(DataError):
        return check_file_name(name, where="it")
    return None


def _categories(said: Mapping[str, Any]) -> tuple[tuple[int, str], ...]:
    listed = [(int(c["id"]), clean_name(c["name"], where="it")) for c in said.get("categories") or ()]
    for one in said.get("annotations") or ():
        if isinstance(one, Mapping) and one.get("category_name") is not None:
            number = read_integer(one.get("category_id"))
            if number is not None:
                listed.append((number, clean_name(one["category_name"], where="it")))
    return tuple(dict.fromkeys(listed))


def image_id_of(key: str, given: int | None) -> int:
    """Id of a third-party image, a function of its sample alone: every way of reading gives the same.

    A number that depended on the other samples, such as its place, could not be known while shards are read
    from front to back. Hence the id that the JSON gives; else the key where all of it is a number; else 63
    bits of the key's SHA-256. The scan for reading by offset refuses a set in which an id comes twice. Keys
    such as `a/0001` are hashed, for `b/0001` may be another image.

    Args:
        key: Name of the sample in its shard.
        given: The integer id in its JSON.
    """
    if given is not None:
        return given
    if key.isascii() and key.isdigit() and len(key) < 19:  # below 2**63
        return int(key)
    return int.from_bytes(hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()[:8], "big") >> 1


def to_columns(
    annotations: Annotations,
    *,
    image_id: int,
    key: str,
    size_hw: tuple[int, int],
    first_id: int,
    ids: Mapping[str, int],
) -> dict[str, Any]:
    """Convert annotations to the columns of qdet's own JSON.

    Args:
        annotations: What the JSON said.
        image_id: The image's id in the index.
        key: Its name in its shard, where the JSON gives no file name.
        size_hw: Its size in the index.
        first_id: Id of its first annotation. They are renumbered: COCO AP needs unique ids other than 0,
            which third-party annotations may lack.
        ids: Ids of classes by their names.
    """
    height, width = size_hw
    return {
        "image_id": image_id,
        "file_name": annotations.file_name or key,
        "width": width,
        "height": height,
        "annotation_ids": list(range(first_id, first_id + len(annotations.kinds))),
        "category_ids": [category_id(kind, ids) for kind in annotations.kinds],
        "boxes_xywh": [list(box) for box in annotations.boxes_xywh],
        "areas": list(annotations.areas),
        "iscrowd": list(annotations.iscrowd),
    }


def category_id(kind: Kind, ids: Mapping[str, int]) -> int:
    """Return the id of a class: of its name or, where no class has that name, the number in it.

    >>> category_id("dog", {"dog": 7}), category_id("7", {"dog": 7}), category_id("7", {"7": 1})
    (7, 7, 1)
    """
    if isinstance(kind, int):
        return kind
    number = read_integer(kind) if kind not in ids else None
    return ids[kind] if number is None else number


def unknown_kinds(kinds: set[Kind], categories: Categories) -> list[str]:
    """Return the classes of objects that a dataset does not list, as messages show them."""
    ids = dict(zip(categories.names, categories.ids, strict=True))
    known = set(categories.ids)
    lost = [
        kind
        for kind in kinds
        if kind not in ids and (read_integer(kind) is None or category_id(kind, ids) not in known)
    ]
    return sorted(map(repr, lost))
