"""Splits of a dataset: recognized by the names of folders and files, and cut from the training images."""

import hashlib
import posixpath
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from data_prep.annotations.coco_file import CocoFile
from data_prep.datasets.classes import adopt_classes
from data_prep.datasets.labels import Found, Part
from qdet.errors import ConfigError, DataError

NAMES = ("train", "val", "test")
_WORDS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
}
_WORDS |= {"test": "test", "testing": "test", "default": "train", "trainval": "train"}
_WORD = re.compile(
    rf"(?:instances_|annotations_)?({'|'.join(sorted(_WORDS, key=len, reverse=True))})[-_]?\d*"
)
_COPY = re.compile(r"\.rf\.[0-9A-Za-z]+$")


def split_named(word: str) -> str | None:
    """Return the split that a folder or file is named after: train2017 is train, valid is val.

    >>> split_named("instances_val2017"), split_named("Validation"), split_named("trains")
    ('val', 'val', None)
    """
    found = _WORD.fullmatch(word.lower())
    return _WORDS[found[1]] if found else None


def split_of(name: str) -> str | None:
    """Return the split whose folder a file is in, which is the first folder named after one."""
    return next(filter(None, map(split_named, name.split("/")[:-1])), None)


def keep_labelled_folders(
    images: Sequence[str], is_labelled: Callable[[str], bool], notes: Counter[str]
) -> list[str]:
    """Return the images of folders in which one is labelled: masks and drawings are in folders of their own.

    If no image is labelled, all are returned, for the error that says so.
    """
    folders = {posixpath.dirname(image) for image in images if is_labelled(image)}
    kept = [image for image in images if posixpath.dirname(image) in folders]
    if not kept:
        return list(images)
    if len(kept) < len(images):
        notes["images in folders without any label, left out"] += len(images) - len(kept)
    return kept


def group_by_split(names: Iterable[str], notes: Counter[str]) -> dict[str, list[str]]:
    """Sort files into splits by their folders; without such folders all are for training.

    Files outside of the folders of splits are left out and counted.
    """
    groups: dict[str | None, list[str]] = {}
    for name in names:
        groups.setdefault(split_of(name), []).append(name)
    outside = groups.pop(None, [])
    if not groups:
        return {"train": outside} if outside else {}
    if outside:
        notes["images outside of the splits' folders, left out"] += len(outside)
    return {split: groups[split] for split in NAMES if split in groups}


def cut(part: Part, share: float) -> tuple[Part, Part]:
    """Divide a part into training and validation images, by a hash of each image's name.

    An image keeps its side when others are added or the folder is moved. Roboflow's augmented copies of a
    photo (`NAME.rf.HASH.jpg`) stay on one side.

    Args:
        part: What to divide.
        share: Fraction for validation, in (0, 1).

    Raises:
        DataError: It has a single image, or copies of one.
    """
    hashes = {image.id: _hash(str(image.file_name)) for image in part.content.images}
    distinct = sorted(set(hashes.values()))
    if len(distinct) < 2:
        raise DataError(f"{part.source} has one image, so --val-share cannot take any from it")
    limit = min(max(share * 2**64, distinct[0] + 1), distinct[-1])
    held_out = {i for i, place in hashes.items() if place < limit}
    return _take(part, hashes.keys() - held_out), _take(part, held_out)


def _hash(name: str) -> int:
    stem = _COPY.sub("", posixpath.splitext(name)[0])
    return int.from_bytes(hashlib.sha256(stem.encode()).digest()[:8], "big")


def _take(part: Part, ids: Iterable[object]) -> Part:
    wanted, content = set(ids), part.content
    images = [image for image in content.images if image.id in wanted]
    annotations = [one for one in content.annotations if one.image_id in wanted]
    return replace(part, content=CocoFile(images, annotations, content.categories))


def hold_out(found: Found, root: Path, *, val: Found | None, share: float | None) -> Found:
    """Add a val split: the images of another dataset, or a share of the training images.

    Raises:
        ConfigError: There is one already, or nothing to take it from.
    """
    if val is None and share is None:
        return found
    if "val" in found.parts:
        count = len(found.parts["val"].content.images)
        raise ConfigError(f"{root} has a val split of {count} images; leave out --val and --val-share")
    if val is not None:
        part = adopt_classes(_only_part(val), next(iter(found.parts.values())))
        return replace(found, parts={**found.parts, "val": part}, notes=found.notes + val.notes)
    if "train" not in found.parts:
        raise ConfigError(f"{root} has no train split that --val-share could take images from")
    train, held_out = cut(found.parts["train"], share or 0.0)
    return replace(found, parts={**found.parts, "train": train, "val": held_out})


def _only_part(val: Found) -> Part:
    """Return the validation images of the folder given with --val."""
    if "val" in val.parts or len(val.parts) == 1:
        return val.parts.get("val") or next(iter(val.parts.values()))
    source = next(iter(val.parts.values())).source
    raise ConfigError(f"--val {source} has the splits {', '.join(val.parts)}; give the folder of one of them")
