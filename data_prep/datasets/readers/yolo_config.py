"""data.yaml of a YOLO dataset: names of the classes, and where the images of each split are.

Ultralytics, Roboflow and CVAT write its paths in different ways, and often for another machine. `path:` is
believed where it leads somewhere inside the folder. `download:`, which Ultralytics runs, is never read.
"""

import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.datasets.files import read_text, read_yaml
from data_prep.datasets.tree import IMAGES, Tree, suffix_of
from data_prep.wording import plural, quote, shorten
from qdet.errors import DataError

SPLIT_KEYS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
_EMPTY = ("", "null", "~", None)


@dataclass(frozen=True)
class Config:
    """A data.yaml, or the files that older exports have instead."""

    file: Path
    names: Mapping[int, str]
    entries: Mapping[str, tuple[str, ...]]
    """Folders and lists of images of each split, as they are written; empty where they are not."""
    base: str = ""
    """What `path` says."""
    keypoints: int = 0
    """Numbers that follow the box in a line of a pose dataset."""


def read_config(file: Path) -> Config:
    """Read data.yaml.

    Raises:
        DataError: It has no usable names, or paths that are no text.
    """
    content = read_yaml(file)
    entries = {split: _entries(content, keys, file) for split, keys in SPLIT_KEYS.items()}
    base = content.get("path", "")
    return Config(
        file,
        _read_names(content, file),
        {split: listed for split, listed in entries.items() if listed},
        base if isinstance(base, str) and base not in _EMPTY else "",
        _read_keypoints(content, file),
    )


def read_name_list(file: Path) -> Config:
    """Read classes.txt of LabelImg or obj.names of Darknet: a class per line, from 0."""
    lines = [line.strip() for line in read_text(file).splitlines()]
    return Config(file, dict(enumerate(line for line in lines if line)), {})


def _read_names(content: Mapping[str, Any], file: Path) -> dict[int, str]:
    given = content.get("names")
    pairs = (
        list(given.items())
        if isinstance(given, dict)
        else list(enumerate(given))
        if isinstance(given, list)
        else []
    )
    if not pairs:
        raise DataError(f"{file} has no `names`: list the classes in the order of their numbers")
    try:
        names = {int(number): name.strip() for number, name in pairs if isinstance(name, str)}
    except (TypeError, ValueError):
        names = {}
    if len(names) != len(pairs) or min(names) < 0 or not all(names.values()):
        raise DataError(f"{file}: `names` must be a list of names, or `number: name` lines")
    count = content.get("nc", str(len(names)))
    if count != str(len(names)):
        raise DataError(f"{file}: `nc` says {quote(count)} classes, `names` lists {len(names)}; correct one")
    return dict(sorted(names.items()))


def _entries(content: Mapping[str, Any], keys: tuple[str, ...], file: Path) -> tuple[str, ...]:
    for key in keys:
        given = content.get(key)
        listed = given if isinstance(given, list) else [given]
        if listed in ([value] for value in _EMPTY):
            continue
        if not listed or not all(isinstance(entry, str) for entry in listed):
            raise DataError(f"{file}: `{key}` must be a folder, a list of images, or several of them")
        return tuple(map(str, listed))
    return ()


def _read_keypoints(content: Mapping[str, Any], file: Path) -> int:
    given = content.get("kpt_shape")
    if given in _EMPTY:
        return 0
    try:
        points, numbers = (int(number) for number in given or ())
    except (TypeError, ValueError) as error:
        raise DataError(f"{file}: `kpt_shape` must be two numbers, such as [17, 3]") from error
    return points * numbers


def list_images(config: Config, split: str, tree: Tree) -> list[str] | None:
    """Return the images of a split; None if its entry names nothing that is there.

    Raises:
        DataError: An entry leads out of the folder, or a list names images that are not there.
    """
    folder = config.file.parent.relative_to(tree.root).as_posix().removeprefix(".")
    found: dict[str, None] = {}
    for entry in config.entries[split]:
        place = _locate(
            entry, (posixpath.join(folder, config.base), folder), tree, f"{config.file}, `{split}`"
        )
        if place is None:
            return None
        found.update(dict.fromkeys(_expand(place, tree)))
    return sorted(found)


def _expand(place: str, tree: Tree) -> Iterator[str]:
    if place in tree.folders:
        yield from tree.images(place)
    elif suffix_of(place) in IMAGES:
        yield place
    else:
        yield from read_image_list(place, tree)


def read_image_list(name: str, tree: Tree) -> list[str]:
    """Return the images that a text file lists, one a line.

    Raises:
        DataError: One is not there, or outside of the folder.
    """
    file, folder = tree.path(name), posixpath.dirname(name)
    found, missing = [], []
    for number, line in enumerate(read_text(file).splitlines(), start=1):
        if line.strip():
            place = _locate(line.strip(), (folder, ""), tree, f"{file}, line {number}")
            if place in tree.files:
                found.append(place)
            else:
                missing.append(quote(line.strip()))
    if missing:
        raise DataError(f"{file} lists {plural(len(missing), 'image')} not found: {shorten(missing)}")
    return list(dict.fromkeys(found))


def _locate(name: str, bases: tuple[str, ...], tree: Tree, where: str) -> str | None:
    """Return the place that a path means from the first of `bases` where there is one.

    Roboflow writes `../train/images` for `train/images`, CVAT `data/images/x.jpg` for `images/x.jpg`.

    Raises:
        DataError: It means nothing inside the folder.
    """
    spellings = [name, *(name.removeprefix(prefix) for prefix in ("../", "data/") if name.startswith(prefix))]
    absent, refused = False, None
    for spelling in spellings:
        for base in dict.fromkeys(bases):
            try:
                found = tree.look_up(spelling, base=base, where=where)
            except DataError as error:
                refused = refused or error
                continue
            if found is not None:
                return found
            absent = True
    if refused is not None and not absent:
        raise refused
    return None
