"""One object of an annotation, whatever wrote it: its box, area and flags, or why it is left out.

Conversions and the reading of third-party shards share these rules. Boxes are left, top, width and height in
pixels of the stored image. One that can never be found (of no area, outside of its image, no numbers) is
dropped; one that crosses the border is kept as it is and clipped by the loader. All of that is counted.
"""

import json
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any, NamedTuple

from qdet.data.shards.report import Report
from qdet.data.shards.segmentation import XYWH, box_around

UNLISTED = object()
"""An area in a form of annotations that has none."""
LARGEST_AREA = 1e10
"""COCO's evaluation leaves out larger objects, in square pixels."""
_BORDER = 0.01
"""COCO rounds to hundredths of a pixel, so a box may exceed the border by that."""
_YES = frozenset({"1", "1.0", "true", "t", "yes", "y", "crowd"})
_NO = frozenset({"", "0", "0.0", "false", "f", "no", "n", "none", "null"})
_CORNERS = (
    ("xmin", "ymin", "xmax", "ymax"),
    ("x0", "y0", "x1", "y1"),
    ("x1", "y1", "x2", "y2"),
    ("left", "top", "right", "bottom"),
)
_SIZES = tuple(
    (*corner, *sides)
    for corner in (("x", "y"), ("left", "top"), ("xmin", "ymin"))
    for sides in (("width", "height"), ("w", "h"))
)


class Given(NamedTuple):
    """An object as annotations give it; None is what they leave out."""

    bbox: Any
    area: Any = None
    iscrowd: Any = None
    ignore: Any = None
    segmentation: Any = None


class Object(NamedTuple):
    """An object that can be trained on or evaluated."""

    box: XYWH
    """Left, top, width and height in pixels, as they were annotated."""
    area: float
    """In square pixels."""
    iscrowd: int


def read_object(given: Given, size_hw: tuple[int, int], report: Report, place: str) -> Object | None:
    """Read one object.

    Args:
        given: Its fields.
        size_hw: Height and width of its image in pixels.
        report: Counts what is irregular.
        place: Name of its image in the report.

    Returns:
        The object, or None where it is dropped.
    """
    report.listed += 1
    box = _find_box(given, report, place)
    if box is None:
        report.add("dropped_unreadable_box", place, _shown(given.bbox))
        return None
    reason = _check_box(box, size_hw)
    if reason is not None:
        if reason == "outside_image":
            report.see_box(box, size_hw, place)
        report.add(f"dropped_{reason}", place, given.bbox)
        return None
    report.see_box(box, size_hw, place)
    x, y, w, h = box
    height, width = size_hw
    if x < -_BORDER or y < -_BORDER or x + w > width + _BORDER or y + h > height + _BORDER:
        report.add("clipped", place)
    area = _read_area(given.area, box, size_hw, report, place)
    return Object(box, area, _read_flags(given, report, place))


def _find_box(given: Given, report: Report, place: str) -> XYWH | None:
    box = read_box(given.bbox)
    if box is not None:
        if isinstance(given.bbox, Mapping):
            report.add("boxes_given_as_objects", place, given.bbox)
        return box
    around = box_around(given.segmentation)
    if around is not None:
        report.add("boxes_from_segmentation", place)
    return around


def read_box(given: Any) -> XYWH | None:
    """Return left, top, width and height of a box in one of its forms; None where it is in none of them."""
    try:
        if isinstance(given, str):
            given = json.loads(given)
        if isinstance(given, Mapping):
            given = _from_names({_plain(name): value for name, value in given.items()})
        if not isinstance(given, Sequence):
            return None
        x, y, w, h = (float(number) for number in given)
    except (TypeError, ValueError, OverflowError, RecursionError):
        return None
    return x, y, w, h


def _plain(name: Any) -> str:
    return str(name).lower().replace("_", "").replace("-", "")


def _from_names(box: Mapping[str, Any]) -> Sequence[Any] | None:
    for names in _SIZES:
        if set(names) <= box.keys():
            return [box[name] for name in names]
    for names in _CORNERS:
        if set(names) <= box.keys():
            x0, y0, x1, y1 = (float(box[name]) for name in names)
            return x0, y0, x1 - x0, y1 - y0
    return None


def _check_box(box: XYWH, size_hw: tuple[int, int]) -> str | None:
    """Return why a box can never be found, or None."""
    x, y, w, h = box
    height, width = size_hw
    if not (isfinite(x) and isfinite(y) and isfinite(w) and isfinite(h)):
        return "not_finite"
    if x + w <= x or y + h <= y:  # also where a side is too short for the numbers to differ
        return "zero_area"
    if x >= width or y >= height or x + w <= 0 or y + h <= 0:
        return "outside_image"
    return None


def _read_area(area: Any, box: XYWH, size_hw: tuple[int, int], report: Report, place: str) -> float:
    if isinstance(area, int | float) and 0 <= area <= LARGEST_AREA:
        return float(area)
    if isinstance(area, int) or (isinstance(area, float) and isfinite(area)):
        report.add("area_out_of_range", place, area)
    elif area is not UNLISTED:
        report.add("area_filled_in", place)
    full = box[2] * box[3]
    return full if full <= LARGEST_AREA else float(size_hw[0] * size_hw[1])


def _read_flags(given: Given, report: Report, place: str) -> int:
    """Return 1 for a crowd, and for an object that evaluation is to ignore."""
    if given.iscrowd == 0 and given.ignore is None:
        return 0  # nearly all
    crowd, ignored = _read_flag(given.iscrowd), _read_flag(given.ignore)
    if crowd is None:
        report.add("iscrowd_unreadable", place, given.iscrowd)
    elif isinstance(given.iscrowd, str) and given.iscrowd not in ("0", "1"):
        report.add("iscrowd_in_words", place, given.iscrowd)
    if ignored is None:
        report.add("ignore_unreadable", place, given.ignore)
    if ignored and not crowd:
        report.add("ignored_as_crowds", place)
    return int(bool(crowd or ignored))


def _read_flag(value: Any) -> bool | None:
    """Return what a flag says in one of its forms; None where it is in none of them."""
    if value is None:
        return False
    if isinstance(value, int | float):
        return bool(value) if value == value else None
    if isinstance(value, str):
        word = value.strip().lower()
        return True if word in _YES else False if word in _NO else None
    return None


def _shown(bbox: Any) -> Any:
    return "without bbox" if bbox is None else bbox


def read_integer(value: Any) -> int | None:
    """Return a whole number that may be given as a float or in quotes; None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    if isinstance(value, str):
        digits = value.strip().removeprefix("-")
        return int(value) if digits.isascii() and digits.isdigit() and len(digits) < 20 else None
    return None
