"""Open a dataset of any format: its classes, and its splits with all boxes checked and counted."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from data_prep.annotations.coco import Annotations, check_content
from data_prep.annotations.same_names import merge_same_names
from data_prep.datasets.classes import check_classes
from data_prep.datasets.format_names import Format, check_format
from data_prep.datasets.formats import find_formats, guess_format, read_format
from data_prep.datasets.labels import Found, Part
from data_prep.datasets.readers.yolo import read_classes
from data_prep.datasets.splits import NAMES, hold_out
from data_prep.datasets.tree import Tree, list_tree
from data_prep.wording import plural, printable, shorten
from qdet.errors import ConfigError, DataError


@dataclass(frozen=True)
class Split:
    """Images and objects of one split; no image has been read further than its header."""

    name: str
    images_folder: Path
    """Folder that the names of its images are relative to."""
    annotations: Annotations = field(repr=False)

    def __len__(self) -> int:
        return len(self.annotations.images)


@dataclass(frozen=True)
class Dataset:
    """A dataset as people bring it."""

    root: Path
    format: Format
    names: tuple[str, ...]
    """Classes, in the order in which a network numbers them."""
    splits: Mapping[str, Split]
    """By their names, which are among train, val and test."""
    notes: Mapping[str, int]
    """Counts of what was left out or read in an unusual way, by what it was."""

    def describe(self) -> str:
        """Summarize in a few lines what was found."""
        counts = ", ".join(f"{name} {plural(len(split), 'image')}" for name, split in self.splits.items())
        names = [printable(name) for name in self.names]
        kinds = f"{plural(len(names), 'class')} ({shorten(names, 10)})"
        lines = [f"{self.root}: {self.format}, {kinds}; {counts}"]
        return "\n".join(lines + [f"  {printable(what)}: {count:,}" for what, count in self.notes.items()])


def open_dataset(
    path: str | Path,
    *,
    format: str | None = None,
    val: str | Path | None = None,
    val_share: float | None = None,
    follow_links: bool = False,
    merge_categories: bool = False,
) -> Dataset:
    """Read the annotations of a dataset.

    Args:
        path: Its folder.
        format: One of coco, yolo, voc, labelme, createml and hf; None guesses it.
        val: Folder of the validation images, for a dataset without any.
        val_share: Fraction of the training images to validate with instead, chosen by their names.
        follow_links: Allow links that lead out of the folder.
        merge_categories: Make classes of one name one.

    Raises:
        ConfigError: An argument cannot work.
        DataError: The format is unknown or not the only one, splits differ in their classes, or annotations
            are wrong; the message names the file.
    """
    if val is not None and val_share is not None:
        raise ConfigError("--val and --val-share both say what to validate with; give one of them")
    if val_share is not None and not 0 < val_share < 1:
        raise ConfigError(f"--val-share must be above 0 and below 1, got {val_share}")
    tree = _enter(Path(path).expanduser(), follow_links)
    kind = guess_format(tree) if format is None else check_format(format)
    other = None if val is None else _read_other(Path(val).expanduser(), tree, kind, follow_links)
    found = hold_out(read_format(tree, kind), tree.root, val=other, share=val_share)
    if not found.parts:
        raise DataError(f"{tree.root} holds no labelled images")
    parts = {name: found.parts[name] for name in NAMES if name in found.parts}
    if merge_categories:
        parts = {name: _merge(part, found.notes) for name, part in parts.items()}
    splits = {name: _check(name, part) for name, part in parts.items()}
    check_classes(parts)
    names = next(iter(splits.values())).annotations.categories.names
    return Dataset(tree.root, kind, names, splits, dict(sorted(found.notes.items())))


def _enter(root: Path, follow_links: bool) -> Tree:
    """List a folder; of one that holds a single folder and nothing else that is known, list that."""
    tree = list_tree(root, follow_links=follow_links)
    inner = {name.split("/")[0] for name in tree.folders if name}
    if len(inner) == 1 and not tree.folders[""] and not find_formats(tree):
        return list_tree(root / inner.pop(), follow_links=follow_links)
    return tree


def _read_other(root: Path, tree: Tree, kind: Format, follow_links: bool) -> Found:
    """Read the folder given with --val, in the format of the dataset if it may be in that."""
    other = _enter(root, follow_links)
    found = find_formats(other)
    if kind not in found:
        kind = guess_format(other)
    return read_format(other, kind, classes=read_classes(tree) if kind == "yolo" else None)


def _merge(part: Part, notes: Counter[str]) -> Part:
    """Return a part in which classes of one name are one, and count them."""
    merged = merge_same_names(part.content)
    if less := len(part.content.categories) - len(merged.categories):
        notes["classes merged into others of the same name"] += less
    return replace(part, content=merged)


def _check(name: str, part: Part) -> Split:
    annotations = check_content(
        part.content, part.source, renumber=part.renumber, images_folder=part.images_folder, split=name
    )
    return Split(name, part.images_folder, annotations)
