"""COCO: one JSON file per split, which lists images, objects and classes.

    annotations/instances_train2017.json, train2017/1.jpg      COCO; images/train2017 will do too
    annotations/instances_default.json, images/1.jpg           CVAT
    train/_annotations.coco.json, train/1.jpg, valid/...       Roboflow
    result.json, images/1.jpg                                  Label Studio and others
    labels.json, data/1.jpg                                    FiftyOne

Images keep the names and ids that the files give them.
"""

import posixpath
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from data_prep.annotations.coco_file import CocoFile, ImageEntry, name_in_url, read_coco_file
from data_prep.datasets.labels import Found, Part, check_missing
from data_prep.datasets.splits import NAMES, split_named, split_of
from data_prep.datasets.tree import Tree
from qdet.errors import DataError

_PREFERRED = (re.compile(r"_annotations\.coco\.json(\.gz)?"), re.compile(r"instances_.*\.json(\.gz)?"))
_TRIED = 50  # images by which the folder of the images is chosen


def read(tree: Tree, files: Sequence[str]) -> Found:
    """Read the COCO dataset of some annotation files.

    Raises:
        DataError: A file is wrong, two are of one split, or an image is missing.
    """
    notes: Counter[str] = Counter()
    of_split: dict[str, str] = {}
    for name in _choose(files):
        split = _split_of_file(name)
        if split in of_split:
            raise DataError(
                f"{tree.root} has two annotation files of {split}: {of_split[split]} and {name}; "
                "move one of them out of the folder"
            )
        of_split[split] = name
    parts = {split: _read_file(of_split[split], tree, notes) for split in NAMES if split in of_split}
    return Found(parts, notes=notes)


def _choose(files: Sequence[str]) -> Sequence[str]:
    """Return the files of objects where there are others, of keypoints or captions, beside them."""
    for pattern in _PREFERRED:
        chosen = [name for name in files if pattern.fullmatch(posixpath.basename(name))]
        if chosen:
            return chosen
    return files


def _split_of_file(name: str) -> str:
    stem = posixpath.splitext(posixpath.basename(name).removesuffix(".gz"))[0]
    words = (stem, *re.split(r"[-_. ]", stem))
    return next(filter(None, map(split_named, words)), None) or split_of(name) or "train"


def _read_file(name: str, tree: Tree, notes: Counter[str]) -> Part:
    file = tree.path(name)
    content = read_coco_file(file)
    base = _find_base(name, content.images, tree)
    listed = [_place(image, base, tree, str(file)) for image in content.images]
    check_missing([str(image.file_name) for image, there in listed if not there], file, "it lists")
    renumber = not _are_usable([one.id for one in content.annotations])
    if renumber:
        notes["annotations with new ids, as theirs are missing, 0 or not unique"] += len(content.annotations)
    named = {posixpath.join(base, str(image.file_name)) for image, _ in listed}
    left_out = len(set(tree.images(base)) - named)
    if left_out and base:
        notes[f"images in {base} that {name} does not list, left out"] += left_out
    content = CocoFile([image for image, _ in listed], content.annotations, content.categories)
    return Part(file, tree.path(base), content, declared=True, renumber=renumber)


def _find_base(name: str, images: Sequence[ImageEntry], tree: Tree) -> str:
    """Return the folder that names of images are relative to: one of a known layout, or the only other."""
    hits = {base: _count_hits(images, base, tree, str(tree.path(name))) for base in _bases(name)}
    known = max(hits, key=lambda base: hits[base])
    if hits[known]:
        return known
    hits = {base: _count_hits(images, base, tree, str(tree.path(name))) for base in tree.folders}
    found = [base for base in hits if hits[base]]
    return found[0] if len(found) == 1 else known


def _place(image: ImageEntry, base: str, tree: Tree, where: str) -> tuple[ImageEntry, bool]:
    """Return an image under its name relative to `base`, and whether it is there."""
    found = _find(image, base, tree, where)
    if found is not None:
        return msgspec.structs.replace(image, file_name=posixpath.relpath(found, base or ".")), True
    named = isinstance(image.file_name, str) and bool(image.file_name)
    return image, not named  # checking the annotations says what is wrong with no name


def _find(image: ImageEntry, base: str, tree: Tree, where: str) -> str | None:
    """Return the file of an image; the name in its URL, as LVIS gives it, may be below another folder."""
    for name in (image.file_name, name_in_url(image.coco_url, folders=1)):
        found = tree.look_up(name, base=base, where=where)
        if found is not None and found in tree.files:
            return found
    return None


def _bases(name: str) -> Iterator[str]:
    """Yield the folders that the names of images in an annotation file may be relative to."""
    folder, file = posixpath.split(name)
    word = posixpath.splitext(file.removesuffix(".gz"))[0].removeprefix("instances_")
    split = _split_of_file(name)
    for parent in (posixpath.dirname(folder), folder):
        for images in (
            word,
            split,
            *(("valid",) if split == "val" else ()),
            f"images/{word}",
            f"images/{split}",
        ):
            yield posixpath.join(parent, images)
        yield posixpath.join(parent, "images")
        yield posixpath.join(parent, "data")
        yield parent


def _count_hits(images: Sequence[ImageEntry], base: str, tree: Tree, where: str) -> int:
    hits = 0
    for image in images[:_TRIED]:
        try:
            hits += _find(image, base, tree, where) is not None
        except DataError:
            continue
    return hits


def _are_usable(ids: Sequence[Any]) -> bool:
    return all(type(i) is int and i for i in ids) and len(set(ids)) == len(ids)
