"""Parse the JSON beside an image, in the forms in which detection datasets come as WebDataset shards.

1. qdet's own: `boxes_xywh`, `category_ids` and other columns (see `data_prep`).
2. COCO's: `annotations`, a list of {bbox: [x, y, w, h], category_id, iscrowd?, area?}; the image's `id`,
   `width` and `height` beside it or in `image`; perhaps the dataset's `categories`. The list may stand alone.
3. Hugging Face's: `objects`, the columns {bbox: [[x, y, w, h], ...], category: [...], area?, iscrowd?}.
4. torchvision's: `boxes` [[x0, y0, x1, y1], ...] and `labels`.

A class is an id or a name. Boxes are in pixels of the stored image.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qdet.errors import DataError

Kind = int | str
"""A class as an annotation names it."""


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

    def check_size(self, hw: tuple[int, int], *, name: str) -> None:
        """Raise DataError if the JSON gives another height and width than the image has."""
        if self.size_hw not in (None, hw):
            raise DataError(
                f"{name}: the image is {hw[1]}x{hw[0]} pixels, its JSON says "
                f"{self.size_hw[1]}x{self.size_hw[0]}"
            )


def read_annotations(data: bytes, *, name: str) -> Annotations:
    """Read a sample's JSON; `name` says in errors which sample it is."""
    try:
        said = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name}: its JSON cannot be read ({error})") from error
    try:
        return _parse(said)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DataError(
            f"{name}: its JSON is in no known form ({type(error).__name__}: {error}); "
            "see qdet/data/shards/annotations.py for those that are"
        ) from error


def _parse(said: Any) -> Annotations:
    if isinstance(said, list):
        said = {"annotations": said}
    about = said.get("image") if isinstance(said.get("image"), Mapping) else said
    columns = _columns(said)
    boxes = tuple(_box(box) for box in columns["boxes"])
    kinds = tuple(_kind(kind) for kind in columns["kinds"])
    areas = columns.get("areas") or [box[2] * box[3] for box in boxes]
    crowds = columns.get("iscrowd") or [0] * len(boxes)
    if not len(boxes) == len(kinds) == len(areas) == len(crowds):
        raise ValueError("boxes, classes, areas and crowds are not equally many")
    image_id = about.get("image_id", about.get("id"))
    width, height = about.get("width"), about.get("height")
    return Annotations(
        kinds=kinds,
        boxes_xywh=boxes,
        areas=tuple(float(area) for area in areas),
        iscrowd=tuple(int(crowd) for crowd in crowds),
        image_id=_id(image_id),
        file_name=about.get("file_name"),
        size_hw=None if width is None or height is None else (int(height), int(width)),
        categories=_categories(said),
    )


def _columns(said: Mapping[str, Any]) -> dict[str, Sequence[Any]]:
    if "boxes_xywh" in said:
        names = {"boxes": "boxes_xywh", "kinds": "category_ids", "areas": "areas", "iscrowd": "iscrowd"}
        return {ours: said[theirs] for ours, theirs in names.items()}
    if "annotations" in said:
        listed = said["annotations"]
        return {
            "boxes": [a["bbox"] for a in listed],
            "kinds": [a["category_id"] if "category_id" in a else a["category_name"] for a in listed],
            "areas": [a["area"] if "area" in a else a["bbox"][2] * a["bbox"][3] for a in listed],
            "iscrowd": [a.get("iscrowd", 0) for a in listed],
        }
    if "objects" in said:
        objects = said["objects"]
        kinds = next((n for n in ("category", "category_id", "label") if n in objects), "category")
        found = {"boxes": objects["bbox"], "kinds": objects[kinds]}
        return found | {
            ours: objects[theirs]
            for ours, theirs in (("areas", "area"), ("iscrowd", "iscrowd"))
            if theirs in objects
        }
    corners = said["boxes"]
    boxes = [(x0, y0, x1 - x0, y1 - y0) for x0, y0, x1, y1 in corners]
    return {"boxes": boxes, "kinds": said["labels"]}


def _box(box: Sequence[Any]) -> tuple[float, float, float, float]:
    x, y, w, h = (float(number) for number in box)
    if not all(map(math.isfinite, (x, y, w, h))) or w < 0 or h < 0:
        raise ValueError(f"{list(box)} is no box")
    return x, y, w, h


def _id(given: Any) -> int | None:
    if type(given) is not int:
        return None
    if not -(2**63) <= given < 2**63:
        raise ValueError(f"image id {given} has more than 64 bits")
    return given


def _kind(kind: Any) -> Kind:
    if type(kind) not in (int, str):
        raise TypeError(f"{kind!r} is neither the id nor the name of a class")
    return kind


def _categories(said: Mapping[str, Any]) -> tuple[tuple[int, str], ...]:
    listed = [(int(c["id"]), str(c["name"])) for c in said.get("categories") or ()]
    listed += [
        (int(a["category_id"]), str(a["category_name"]))
        for a in said.get("annotations") or ()
        if "category_id" in a and "category_name" in a
    ]
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
        "category_ids": [ids[kind] if isinstance(kind, str) else kind for kind in annotations.kinds],
        "boxes_xywh": [list(box) for box in annotations.boxes_xywh],
        "areas": list(annotations.areas),
        "iscrowd": list(annotations.iscrowd),
    }
