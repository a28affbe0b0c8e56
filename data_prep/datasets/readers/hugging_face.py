"""Hugging Face image folders: metadata.jsonl or metadata.csv beside the images.

    train/metadata.jsonl, train/1.jpg, validation/...      a file per split
    metadata.csv, train/1.jpg, ...                         one file; splits by the folders of the images

`objects` holds `bbox` (left, top, width, height in pixels) and `categories` or `category`: names, or numbers
that the dataset card (README.md) or a classes.txt names. In CSV, `objects` is JSON. Parquet is not read.
"""

import posixpath
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from data_prep.datasets.files import JSON_BYTES, parse_yaml, read_bytes, read_csv, read_text
from data_prep.datasets.labels import (
    XYWH,
    Box,
    Found,
    Labels,
    build_parts,
    check_missing,
    label_name,
    numbers,
)
from data_prep.datasets.splits import group_by_split
from data_prep.datasets.tree import Tree
from data_prep.wording import quote, shorten
from qdet.errors import DataError

_METADATA = ("metadata.jsonl", "metadata.csv")
_CATEGORIES = ("categories", "category", "category_id", "label", "labels")
_LARGEST = 16 * 2**20  # bytes of the part of a dataset card that is YAML


def find(tree: Tree) -> str | None:
    """Return the file that shows that a folder is a Hugging Face image folder, or None."""
    return next(_metadata_files(tree), None)


def _metadata_files(tree: Tree) -> Iterator[str]:
    return (name for name in sorted(tree.files) if posixpath.basename(name) in _METADATA)


def read(tree: Tree) -> Found:
    """Read a Hugging Face image folder.

    Raises:
        DataError: A metadata file is wrong, or an image is missing; the message names file and line.
    """
    notes: Counter[str] = Counter()
    labels: dict[str, Labels] = {}
    for name in _metadata_files(tree):
        _read_file(name, tree, labels)
    left_out = len(tree.images()) - len(labels)
    if left_out:
        notes["images that no metadata file lists, left out"] += left_out
    names = _read_names(tree, labels)
    splits = group_by_split(labels, notes)
    return Found(
        build_parts(tree, {split: [labels[i] for i in images] for split, images in splits.items()}, names),
        notes=notes,
    )


def _read_file(name: str, tree: Tree, labels: dict[str, Labels]) -> None:
    file, missing = tree.path(name), []
    for number, row in _rows(name, tree):
        where = f"{file}, line {number}"
        image = tree.look_up(row.get("file_name"), base=posixpath.dirname(name), where=where)
        if image not in tree.files:
            missing.append(str(row.get("file_name")))
        elif image in labels:
            raise DataError(f"{where}: {quote(image)} is listed more than once")
        else:
            labels[image] = Labels(image, list(_read_objects(row.get("objects"), where)))
    check_missing(missing, file, "it lists")


def _rows(name: str, tree: Tree) -> Iterator[tuple[int, Mapping[str, Any]]]:
    file = tree.path(name)
    if name.endswith(".csv"):
        for number, row in read_csv(file):
            row["objects"] = _decode(row.get("objects") or "null", f"{file}, line {number}, `objects`")
            yield number, row
        return
    for number, line in enumerate(read_bytes(file, JSON_BYTES).splitlines(), start=1):
        if line.strip():
            row = _decode(line, f"{file}, line {number}")
            if not isinstance(row, dict):
                raise DataError(f"{file}, line {number}: is no JSON object")
            yield number, row


def _decode(text: bytes | str, where: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise DataError(f"{where}: is not JSON: {error}") from error


def _read_objects(objects: Any, where: str) -> Iterator[Box]:
    """Yield the boxes of a row: columns of equal length, or a list of objects."""
    if objects is None:
        return
    listed = objects if isinstance(objects, list) else _to_list(objects, where)
    for one in listed:
        if not isinstance(one, dict):
            raise DataError(f"{where}: `objects` must hold `bbox` and `categories`, got {quote(one)}")
        label = next((one[key] for key in _CATEGORIES if key in one), None)
        if type(label) is not int:
            label = label_name(label, where)
        yield Box(label, _read_box(one.get("bbox")))


def _read_box(given: Any) -> XYWH | None:
    try:
        x, y, w, h = numbers(given if isinstance(given, list) else ())
    except (TypeError, ValueError):
        return None
    return x, y, w, h


def _to_list(objects: Any, where: str) -> list[dict[str, Any]]:
    boxes = objects.get("bbox") if isinstance(objects, dict) else None
    key = next((key for key in _CATEGORIES if isinstance(objects, dict) and key in objects), None)
    kinds = objects[key] if key else None
    if not isinstance(boxes, list) or not isinstance(kinds, list) or len(boxes) != len(kinds):
        raise DataError(f"{where}: `objects` needs `bbox` and `categories`, two lists of the same length")
    return [{"bbox": box, "categories": kind} for box, kind in zip(boxes, kinds, strict=True)]


def _read_names(tree: Tree, labels: Mapping[str, Labels]) -> dict[int, str] | None:
    """Return the names of numbered classes; None where the objects have names themselves.

    Raises:
        DataError: Some are numbered, and no file names them all.
    """
    used = {box.label for one in labels.values() for box in one.boxes}
    numbered = sorted(label for label in used if isinstance(label, int))
    if not numbered:
        return None
    names = _names_in_card(tree) or _names_in_list(tree)
    unnamed = [str(label) for label in numbered if label not in names]
    if unnamed or len(numbered) < len(used):
        raise DataError(
            f"{tree.root} gives classes by number, and nothing names {shorten(unnamed) or 'some'}: name them "
            "in the class_label of README.md, or in a classes.txt with a name per line, from 0"
        )
    return names


def _names_in_list(tree: Tree) -> dict[int, str]:
    if "classes.txt" not in tree.files:
        return {}
    lines = [line.strip() for line in read_text(tree.path("classes.txt")).splitlines()]
    return dict(enumerate(line for line in lines if line))


def _names_in_card(tree: Tree) -> dict[int, str]:
    """Return the names of the first class_label in the YAML that begins a dataset card."""
    if "README.md" not in tree.files:
        return {}
    file = tree.path("README.md")
    text = read_text(file)
    if not text.startswith("---"):
        return {}
    names = _find_class_label(parse_yaml(text[3:_LARGEST].partition("\n---")[0], file), set())
    given = names.items() if isinstance(names, dict) else enumerate(names or ())
    try:
        return {int(number): label_name(name, str(file)) for number, name in given}
    except (TypeError, ValueError) as error:
        raise DataError(f"{file}: the names of its class_label must be numbered from 0") from error


def _find_class_label(content: Any, seen: set[int]) -> Any:
    """Search depth first; YAML may hold a part many times over, or inside of itself."""
    if not isinstance(content, dict | list) or id(content) in seen:
        return None
    seen.add(id(content))
    if isinstance(content, dict) and isinstance(content.get("class_label"), dict):
        return content["class_label"].get("names")
    inner = content.values() if isinstance(content, dict) else content
    return next((found for one in inner if (found := _find_class_label(one, seen))), None)
