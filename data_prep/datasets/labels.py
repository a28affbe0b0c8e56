"""What the readers of all formats produce: a part of a dataset in COCO's form, still unchecked.

supervision's DetectionDataset reads four of the formats too, and the tests compare with it. It is not used
here: it decodes every image of a Pascal VOC dataset and rasterizes every polygon, knows one folder and no
splits, numbers classes of VOC by first appearance, rounds boxes to float32, turns sizes of images by EXIF
while qdet reads pixels as stored, and repairs bad boxes or stops at the first instead of counting them.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_prep.annotations.coco_file import AnnotationEntry, CocoFile, ImageEntry
from data_prep.annotations.headers import read_header
from data_prep.datasets.images import check_upright
from data_prep.datasets.tree import Tree
from data_prep.wording import plural, quote, shorten
from qdet.errors import DataError

XYWH = tuple[float, float, float, float]


@dataclass(frozen=True)
class Box:
    """One labelled object."""

    label: Any
    """Id of its class where the format declares classes, else the name."""
    xywh: "XYWH | Fractions | None"
    """Left, top, width and height in pixels; None if they cannot be read."""


@dataclass(frozen=True)
class Fractions:
    """A box in fractions of the image's width and height."""

    xywh: XYWH


@dataclass(frozen=True)
class Labels:
    """One image with its objects."""

    image: str
    """Its name relative to the root."""
    boxes: Sequence[Box]
    size_wh: tuple[int, int] | None = None
    """Width and height as annotated; None takes them from the image."""


@dataclass(frozen=True)
class Part:
    """One split as it was found."""

    source: Path
    """File or folder that errors name."""
    images_folder: Path
    content: CocoFile
    declared: bool
    """Whether the format lists its classes; if not, they are those of its objects."""
    renumber: bool = False
    """Its annotation ids cannot be used."""


@dataclass(frozen=True)
class Found:
    """A dataset as a reader found it."""

    parts: Mapping[str, Part]
    notes: Counter[str] = field(default_factory=Counter)
    """Counts of what was left out or read in an unusual way."""


def build_parts(
    tree: Tree, splits: Mapping[str, Iterable[Labels]], names: Mapping[int, str] | None
) -> dict[str, Part]:
    """Convert labels to COCO's form.

    Args:
        tree: The dataset's folder.
        splits: Labels of the images of each split.
        names: Classes by id; None numbers the names of all objects from 1 in sorted order.

    Raises:
        DataError: EXIF turns or mirrors an image.
    """
    listed = {split: sorted(labels, key=lambda one: one.image) for split, labels in splits.items()}
    declared = names is not None
    if names is None:
        found = sorted({box.label for labels in listed.values() for one in labels for box in one.boxes})
        names = dict(enumerate(found, start=1))
    ids = {name: i for i, name in names.items()}
    turned: list[Path] = []
    categories = [{"id": i, "name": name} for i, name in names.items()]
    parts = {
        split: Part(tree.root, tree.root, _to_coco(tree, labels, categories, ids, turned), declared)
        for split, labels in listed.items()
    }
    check_upright(dict.fromkeys(turned))
    return parts


def _to_coco(
    tree: Tree,
    labels: Sequence[Labels],
    categories: list[dict[str, Any]],
    ids: Mapping[str, int],
    turned: list[Path],
) -> CocoFile:
    images, annotations = [], []
    for number, one in enumerate(labels, start=1):
        header = read_header(tree.path(one.image))
        if header.turned:
            turned.append(tree.path(one.image))
        width, height = one.size_wh or header.size_wh
        images.append(ImageEntry(number, one.image, width, height))
        for box in one.boxes:
            xywh = _scale(box.xywh, header.size_wh)
            area = None if xywh is None else xywh[2] * xywh[3]
            label = ids.get(box.label, box.label)
            annotations.append(AnnotationEntry(len(annotations) + 1, number, label, xywh, area))
    return CocoFile(images, annotations, categories)


def _scale(xywh: XYWH | Fractions | None, size_wh: tuple[int, int]) -> XYWH | None:
    if not isinstance(xywh, Fractions):
        return xywh
    (x, y, w, h), (width, height) = xywh.xywh, size_wh
    return x * width, y * height, w * width, h * height


def corners(x0: float, y0: float, x1: float, y1: float) -> XYWH:
    """Return left, top, width and height of a box with two opposite corners; reversed ones are no area."""
    return x0, y0, x1 - x0, y1 - y0


def enclose(points: Iterable[tuple[float, float]]) -> XYWH:
    """Return left, top, width and height of the smallest box around points."""
    xs, ys = zip(*points, strict=True)
    return min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)


def label_name(name: object, where: str) -> str:
    """Return the name of a class without blanks around it.

    Raises:
        DataError: It is no text; the message begins with `where`.
    """
    if not isinstance(name, str) or not name.strip():
        raise DataError(f"{where}: an object needs the name of its class, got {quote(name)}")
    return name.strip()


def check_missing(missing: Sequence[str], root: Path, what: str) -> None:
    """Raise DataError naming images that are listed but not there, if there are any."""
    if missing:
        raise DataError(
            f"{root}: {what} {plural(len(missing), 'image')} not found: "
            f"{shorten([quote(name) for name in missing])}; complete the copy or remove what names them"
        )


def numbers(values: Iterable[Any]) -> Iterator[float]:
    """Yield values as numbers; ValueError or TypeError for others, NaN included as it is."""
    for value in values:
        if isinstance(value, bool):
            raise TypeError(value)
        try:
            yield float(value)
        except OverflowError as error:
            raise ValueError("too large a number") from error
