"""The forms in which detection datasets come as WebDataset shards: the JSON beside an image.

1. qdet's own: `boxes_xywh`, `category_ids` and other columns (see `data_prep`).
2. COCO's: `annotations`, a list of {bbox: [x, y, w, h], category_id, iscrowd?, area?}; the image's `id`,
   `width` and `height` beside it or in `image`; perhaps the dataset's `categories`. The list may stand alone.
3. Hugging Face's: `objects`, the columns {bbox: [[x, y, w, h], ...], category: [...], area?, iscrowd?}, or a
   list of such objects.
4. torchvision's: `boxes` [[x0, y0, x1, y1], ...] and `labels`.

A class is an id or a name. Boxes are in pixels of the stored image.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from qdet.data.files.names import check_id, clean_name
from qdet.data.shards.objects import UNLISTED, Given, read_integer
from qdet.errors import DataError
from qdet.storage.parsing import parse_json_object

Kind = int | str
"""A class as an annotation names it."""
_KINDS = ("category", "category_id", "label", "categories", "labels")
_FIELDS = ("area", "iscrowd", "ignore", "segmentation")


def list_objects(said: Mapping[str, Any]) -> Iterator[tuple[Any, Given]]:
    """Yield class and fields of every object, unchecked.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: The JSON is in no known form.
    """
    if "boxes_xywh" in said:
        names = ("category_ids", "boxes_xywh", "areas", "iscrowd")
        yield from _zip(*(said[name] for name in names))
    elif "annotations" in said:
        for entry in said["annotations"]:
            yield _of_entry(entry, ("category_id", "category_name"))
    elif "objects" in said:
        yield from _of_objects(said["objects"])
    else:
        boxes = [_from_corners(corners) for corners in said["boxes"]]
        yield from _zip(said["labels"], boxes, None, said.get("iscrowd"))


def read_kind(given: Any) -> Kind | None:
    """Return a class as its id or its clean name; None for what is neither."""
    with suppress(DataError):
        if isinstance(given, str):
            return clean_name(given, where="it")
        found = read_integer(given)
        return None if found is None else check_id(found, what="its class")
    return None


def _of_objects(objects: Any) -> Iterator[tuple[Any, Given]]:
    if isinstance(objects, list):
        for entry in objects:
            yield _of_entry(entry, _KINDS)
        return
    kinds = objects[next((name for name in _KINDS if name in objects), _KINDS[0])]
    columns = [objects.get(name) for name in _FIELDS]
    boxes = objects["bbox"] if columns[-1] is None or "bbox" in objects else [None] * len(kinds)
    yield from _zip(kinds, boxes, *columns)


def _of_entry(entry: Any, names: Sequence[str]) -> tuple[Any, Given]:
    if not isinstance(entry, Mapping):
        return None, Given(None)
    kind = next((entry[name] for name in names if entry.get(name) is not None), None)
    return kind, Given(entry.get("bbox"), *map(entry.get, _FIELDS))


def _zip(kinds: Sequence[Any], boxes: Sequence[Any], *columns: Sequence[Any] | None) -> Iterator[Any]:
    """Yield class and fields of every row; an area does not count as left out where all are."""
    missing = (UNLISTED, *(None for _ in columns[1:]))
    given = [column or [empty] * len(boxes) for column, empty in zip(columns, missing, strict=True)]
    for kind, *fields in zip(kinds, boxes, *given, strict=True):
        yield kind, Given(*fields)


def _from_corners(corners: Any) -> Sequence[float] | None:
    """Return left, top, width and height of a box; None for what is no box."""
    try:
        x0, y0, x1, y1 = (float(number) for number in corners)
    except (TypeError, ValueError, OverflowError):
        return None
    return x0, y0, x1 - x0, y1 - y0


_LISTS = ("annotation_ids", "category_ids", "boxes_xywh", "areas", "iscrowd")


def read_columns(data: bytes, *, name: str) -> dict[str, Any]:
    """Read the JSON of a sample that data_prep wrote, whose objects are in columns.

    Raises:
        DataError: It is something else; the message begins with `name`.
    """
    try:
        said = parse_json_object(data)
        plain = all(isinstance(said[key], int) for key in ("image_id", "width", "height"))
        plain = plain and all(isinstance(said[key], list) for key in _LISTS)
        if not plain or len({len(said[key]) for key in _LISTS}) != 1:
            raise ValueError("its columns are not equally long lists")
    except (ValueError, KeyError) as error:
        raise DataError(
            f"{name}: its JSON is not as data_prep writes it ({error}); convert it again"
        ) from error
    return said
