"""The formats: which one a folder is in, and its reader."""

from collections.abc import Mapping

from data_prep.datasets.format_names import Format
from data_prep.datasets.labels import Found
from data_prep.datasets.readers import coco, createml, hugging_face, labelme, voc, yolo
from data_prep.datasets.readers.json_kinds import sort_json
from data_prep.datasets.readers.yolo_config import Config
from data_prep.datasets.tree import Tree
from qdet.errors import DataError

LOOKED_FOR: Mapping[Format, str] = {
    "coco": "a COCO file (annotations/instances_train.json, train/_annotations.coco.json)",
    "yolo": "data.yaml or label files (labels/train/*.txt)",
    "voc": "XML files (Annotations/*.xml)",
    "labelme": "LabelMe files (a .json beside each image)",
    "createml": "a CreateML file (_annotations.createml.json)",
    "hf": "metadata.jsonl or metadata.csv",
}
_HINTS = {
    ".tar": "{name} looks like a shard: train on shards with --data.train, without converting them",
    ".parquet": "Parquet is not read ({name}): save the images, and a metadata.jsonl beside them",
    ".tfrecord": "TFRecord is not read ({name}): export one of the formats below",
    ".zip": "Unpack {name} first",
}


def find_formats(tree: Tree) -> dict[Format, str]:
    """Return the formats that a folder seems to be in, each with the file that shows it."""
    listed = sort_json(tree)
    found: dict[Format, str | None] = {
        "coco": next(iter(listed["coco"]), None),
        "yolo": yolo.find(tree),
        "voc": voc.find(tree),
        "labelme": next(iter(listed["labelme"]), None),
        "createml": next(iter(listed["createml"]), None),
        "hf": hugging_face.find(tree),
    }
    return {name: file for name, file in found.items() if file is not None}


def guess_format(tree: Tree) -> Format:
    """Return the format of a folder.

    Raises:
        DataError: It is in no known format, or in several.
    """
    found = find_formats(tree)
    if len(found) == 1:
        return next(iter(found))
    if found:
        seen = ", ".join(f"{name} ({file})" for name, file in found.items())
        raise DataError(f"{tree.root} may be in several formats: {seen}; say which with --format")
    looked = "; ".join(f"{name}: {what}" for name, what in LOOKED_FOR.items())
    raise DataError(
        f"{tree.root} is in no known format. {_hint(tree)}Looked for {looked}. If it is one of them, say "
        "which with --format"
    )


def _hint(tree: Tree) -> str:
    """Return what may help with what is there instead."""
    for suffix, hint in _HINTS.items():
        name = next(tree.below(suffixes=frozenset((suffix,))), None)
        if name is not None:
            return hint.format(name=name) + ". "
    return ""


def read_format(tree: Tree, name: Format, *, classes: Config | None = None) -> Found:
    """Read a folder in a format; `classes` has the names of a YOLO folder without its own.

    Raises:
        DataError: It is not in that format, or something in it is wrong.
    """
    if name not in find_formats(tree):
        raise DataError(f"{tree.root} is not in the format {name}: looked for {LOOKED_FOR[name]}")
    if name == "yolo":
        return yolo.read(tree, classes=classes)
    if name == "voc":
        return voc.read(tree)
    if name == "hf":
        return hugging_face.read(tree)
    reader = {"coco": coco.read, "labelme": labelme.read, "createml": createml.read}[name]
    return reader(tree, sort_json(tree)[name])
