"""YOLO: a text file beside each image, with a class number and a box in fractions of the image per line.

    data.yaml, images/train/1.jpg, labels/train/1.txt            Ultralytics, CVAT
    data.yaml, train/images/1.jpg, train/labels/1.txt            Roboflow
    classes.txt or obj.names, 1.jpg, 1.txt                       LabelImg, Darknet, CVAT's "YOLO 1.1"

Lines of polygons and oriented boxes become the boxes around them; keypoints and confidences are dropped.
"""

import posixpath
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from data_prep.datasets.files import read_text
from data_prep.datasets.labels import Box, Found, Fractions, Labels, build_parts, enclose, numbers
from data_prep.datasets.readers.yolo_config import (
    Config,
    list_images,
    read_config,
    read_image_list,
    read_name_list,
)
from data_prep.datasets.splits import NAMES, group_by_split, keep_labelled_folders
from data_prep.datasets.tree import Tree, join, suffix_of
from data_prep.wording import plural, quote, shorten
from qdet.errors import DataError

_YAML = frozenset((".yaml", ".yml"))
_TEXT = frozenset((".txt",))
_NAME_LISTS = ("classes.txt", "obj.names", "labels/classes.txt", "obj_train_data/classes.txt")
_NO_LABELS = frozenset(("classes.txt", "obj.names", *(f"{split}.txt" for split in NAMES)))
_LARGEST = 2.0  # a box that leaves the image on one side only is smaller
_NO_SHARES = f"boxes with numbers above {_LARGEST:g} instead of shares of the image"


def find(tree: Tree) -> str | None:
    """Return the file that shows that a folder is a YOLO dataset, or None."""
    config = _find_config(tree)
    if config is not None:
        return config
    texts = (name for name in tree.below(suffixes=_TEXT) if posixpath.basename(name) not in _NO_LABELS)
    stems = {stem.replace("images/", "labels/", 1) for stem in tree.image_of_stem}
    return next((name for name in texts if _stem(name) in stems or _stem(name) in tree.image_of_stem), None)


def _find_config(tree: Tree) -> str | None:
    for name in (
        "data.yaml",
        "data.yml",
        "dataset.yaml",
        *(n for n in tree.folders[""] if suffix_of(n) in _YAML),
    ):
        if name in tree.files and "names:" in read_text(tree.path(name)):
            return name
    return next((name for name in _NAME_LISTS if name in tree.files), None)


def read(tree: Tree, *, classes: Config | None = None) -> Found:
    """Read a YOLO dataset; `classes` has the names of one that has none itself.

    Raises:
        DataError: Classes have no names, or a label file is wrong; the message names file and line.
    """
    config = _read_config(tree, classes)
    notes: Counter[str] = Counter()
    splits = _list_splits(config, tree, notes)
    labelled = set[str]()
    labels = {
        split: [_read_labels(image, tree, config, labelled, notes) for image in images]
        for split, images in splits.items()
    }
    if not labelled:
        raise DataError(_describe_no_labels(tree, splits))
    _check_shares(labels, labelled, notes, tree)
    _count_unused(tree, labelled, notes)
    return Found(build_parts(tree, labels, config.names), notes=notes)


def _read_config(tree: Tree, classes: Config | None) -> Config:
    name = _find_config(tree)
    if name is None and classes is not None:
        return Config(classes.file, classes.names, {}, keypoints=classes.keypoints)
    if name is None:
        raise DataError(
            f"{tree.root} has YOLO's label files but no names of the classes: put a data.yaml there with a "
            "line such as `names: [cat, dog]`, or a classes.txt with a name per line"
        )
    return read_config(tree.path(name)) if suffix_of(name) in _YAML else read_name_list(tree.path(name))


def read_classes(tree: Tree) -> Config:
    """Return the names of a dataset's classes, for a folder of it that is read alone."""
    return _read_config(tree, None)


def _list_splits(config: Config, tree: Tree, notes: Counter[str]) -> dict[str, list[str]]:
    """Find the images of each split: by data.yaml, by lists at the root, or by folders."""
    if config.entries:
        listed = {split: list_images(config, split, tree) for split in config.entries}
        for split in ("train", "val"):
            if split in listed and not listed[split]:
                raise DataError(
                    f"{config.file}: `{split}` is {quote(', '.join(config.entries[split]))}, and no image is "
                    f"there; correct the path (relative to {config.file.parent}) or complete the copy"
                )
        if "test" in listed and not listed["test"]:
            notes["splits that data.yaml names and that are not there: test"] += 1
        return {split: images for split, images in listed.items() if images}
    lists = {split: f"{split}.txt" for split in NAMES if f"{split}.txt" in tree.files}
    if lists:
        return {split: read_image_list(name, tree) for split, name in lists.items()}
    images = keep_labelled_folders(tree.images(), lambda image: _find_label(image, tree) is not None, notes)
    return group_by_split(images, notes)


def _read_labels(image: str, tree: Tree, config: Config, labelled: set[str], notes: Counter[str]) -> Labels:
    name = _find_label(image, tree)
    if name is None:
        notes["images without a label file, taken as images without objects"] += 1
        return Labels(image, ())
    labelled.add(name)
    file = tree.path(name)
    return Labels(image, list(_parse(read_text(file), str(file), config, notes)))


def _find_label(image: str, tree: Tree) -> str | None:
    names = list(_label_names(image))
    exact = next((name for name in names if name in tree.files), None)
    return exact or next(filter(None, map(tree.find, names)), None)


def _label_names(image: str) -> Iterator[str]:
    """Yield the names that the label file of an image may have."""
    folder, name = posixpath.split(_stem(image) + ".txt")
    words = folder.split("/")
    for at in reversed([i for i, word in enumerate(words) if word.lower() == "images"]):
        yield "/".join((*words[:at], "labels", *words[at + 1 :], name))
    yield join(folder, name)


def _parse(text: str, where: str, config: Config, notes: Counter[str]) -> Iterator[Box]:
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split()
        if words:
            label = _parse_class(words[0], f"{where}, line {number}", config)
            yield Box(label, _parse_box(words[1:], config.keypoints, notes))


def _parse_class(word: str, where: str, config: Config) -> int:
    try:
        label = int(word) if word.isascii() and word.isdigit() else float(word)
    except ValueError:
        label = None
    if label is None or label not in config.names:
        if "," in word:
            raise DataError(f"{where}: {quote(word)} is no number; put blanks between numbers, not commas")
        raise DataError(
            f"{where}: no class has the number {quote(word)}; {config.file} names "
            f"{shorten([f'{number} {name}' for number, name in config.names.items()], 10)}"
        )
    return int(label)


def _parse_box(words: Sequence[str], keypoints: int, notes: Counter[str]) -> Fractions | None:
    """Read what follows the class in a line; None if it is neither a box nor a polygon."""
    try:
        given = list(numbers(words))
    except (TypeError, ValueError):
        return None
    if len(given) in (4, 5) or (keypoints and len(given) == 4 + keypoints):
        x, y, w, h = given[:4]
        if max(x, y, w, h) > _LARGEST:
            notes[_NO_SHARES] += 1
        return Fractions((x - w / 2, y - h / 2, w, h))
    if len(given) < 6:
        return None
    notes["polygons, taken as the boxes around them"] += 1
    return Fractions(enclose(zip(given[: len(given) // 2 * 2 : 2], given[1::2], strict=False)))


def _check_shares(
    labels: Mapping[str, Sequence[Labels]], files: set[str], notes: Counter[str], tree: Tree
) -> None:
    """Raise DataError if no box is in shares of its image, as after a conversion that forgot to divide."""
    total = sum(len(one.boxes) for listed in labels.values() for one in listed)
    if total and notes[_NO_SHARES] == total:
        raise DataError(
            f"{tree.path(min(files))}: boxes are to be shares of the image's width and height, from 0 to 1, "
            f"and all {total} of the dataset have larger numbers; divide pixels by the image's size"
        )


def _count_unused(tree: Tree, used: set[str], notes: Counter[str]) -> None:
    folders = {posixpath.dirname(name) for name in used}
    unused = sum(
        1
        for folder in folders
        for name in tree.folders[folder]
        if suffix_of(name) == ".txt" and name not in _NO_LABELS and join(folder, name) not in used
    )
    if unused:
        notes["label files without an image"] += unused


def _describe_no_labels(tree: Tree, splits: dict[str, list[str]]) -> str:
    images = [image for listed in splits.values() for image in listed]
    if not images:
        return f"{tree.root} holds no images (.jpg, .png, .webp, .bmp, .gif, .tif)"
    looked = " and ".join(quote(name) for name in _label_names(images[0]))
    return f"{tree.root}: no label file for any of {plural(len(images), 'image')}: looked for {looked}"


def _stem(name: str) -> str:
    return posixpath.splitext(name)[0]
