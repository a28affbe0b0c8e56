"""Look into a set of shards: samples with their boxes, objects per class, sizes.

    python -m data_prep.inspect data/coco/train2017
    python -m data_prep.inspect data/coco/val2017 --images 48 --out val.png --category dog

Writes one picture and prints the counts. Samples are read by offset, as in training.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from rich.console import Console

from data_prep.charts import Bars, draw_bar_charts
from data_prep.command_line import run_command
from data_prep.output import write_local
from data_prep.progress import show_progress
from qdet.data.loading.sample import load_image
from qdet.data.shards.locate import Access
from qdet.data.shards.shard_set import ShardSet
from qdet.errors import ConfigError, DataError
from qdet.visualize.boxes import PAPER, DrawnBoxes, contact_sheet, draw, png

_SMALL, _MEDIUM = 32**2, 96**2  # COCO's area limits, in square pixels
_SHOWN_CLASSES = 40
_MIN_WIDTH = 960  # pixels below which the charts are illegible


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """Which samples to show, and where to write the picture."""

    folder: Annotated[str | Path, tyro.conf.Positional]
    """Folder or URL of shards."""
    out: Path = Path("inspect.png")
    """Picture to write (.png)."""
    images: int = 24
    """Samples to show."""
    category: str | None = None
    """Show only samples with an object of this class."""
    seed: int = 0
    """Seed of the choice of samples."""
    size: int = 320
    """Longer side of each sample in the picture, in pixels."""
    cache: str = Access.cache
    """Folder that caches remote shards."""

    def __post_init__(self) -> None:
        """Raises: ConfigError."""
        if not 1 <= self.images <= 1000:
            raise ConfigError(f"--images must be 1 to 1000, got {self.images}")
        if not 64 <= self.size <= 2048:
            raise ConfigError(f"--size must be 64 to 2048 pixels, got {self.size}")
        if self.out.suffix.lower() != ".png":
            raise ConfigError(f"--out must end in .png, got {self.out}")


@dataclass(frozen=True)
class Census:
    """Counts over all samples."""

    objects: np.ndarray
    """Objects per class, in the order of the categories, without crowds."""
    images: np.ndarray
    """Images per class."""
    per_image: np.ndarray
    """Objects per image."""
    areas: np.ndarray
    """Annotated area of every object, in square pixels."""
    crowds: int
    """Crowd regions."""


def inspect(inspection: Inspection, *, console: Console | None = None) -> Census:
    """Write the picture; print and return the counts.

    Raises:
        ConfigError: There is no such category.
        DataError: Shards cannot be read, no sample matches, or the picture cannot be written.
    """
    console = console or Console(quiet=True)
    shards = ShardSet.open(inspection.folder, Access(cache=inspection.cache))
    annotations = _read_annotations(shards, console)
    census = count(shards, annotations)
    rows = _choose_rows(shards, annotations, inspection)
    names = dict(zip(shards.categories.ids, shards.categories.names, strict=True))
    with ThreadPoolExecutor(4) as pool:
        pictures = list(pool.map(partial(_draw_sample, shards, annotations, names, inspection.size), rows))
    title = f"{inspection.folder}: {len(pictures)} of {len(shards)} images"
    sheet = contact_sheet(pictures, title=title)
    sheet = _pad_to_width(sheet, _MIN_WIDTH)
    page = np.concatenate((sheet, draw_bar_charts(_make_charts(census, names), width=sheet.shape[1])))
    try:
        write_local(inspection.out, png(page))
    except OSError as error:
        raise DataError(f"--out {inspection.out} cannot be written: {error.strerror or error}") from error
    _print_summary(census, names, console)
    console.print(f"{inspection.out}: {len(pictures)} samples with their boxes", soft_wrap=True)
    return census


def count(shards: ShardSet, annotations: Sequence[Mapping[str, Any]]) -> Census:
    """Count classes and sizes over the annotations of all samples."""
    classes = len(shards.categories)
    objects, images = np.zeros(classes, np.int64), np.zeros(classes, np.int64)
    per_image, areas, crowds = [], [], 0
    for annotation in annotations:
        single = np.array(annotation["iscrowd"], np.int64) == 0
        found = np.bincount(
            shards.categories.contiguous(annotation["category_ids"])[single], minlength=classes
        )
        objects += found
        images += found > 0
        per_image.append(int(single.sum()))
        areas.append(np.array(annotation["areas"], np.float64)[single])
        crowds += int((~single).sum())
    return Census(objects, images, np.array(per_image), np.concatenate(areas), crowds)


def _read_annotations(shards: ShardSet, console: Console) -> list[dict[str, Any]]:
    annotations = []
    lengths = shards.index.annotation_length.tolist()
    with show_progress("reading annotations", sum(lengths), console) as advance:
        for row, length in enumerate(lengths):
            annotations.append(shards.read_annotation(row))
            advance(length)
    return annotations


def _choose_rows(
    shards: ShardSet, annotations: Sequence[Mapping[str, Any]], inspection: Inspection
) -> list[int]:
    """Draw rows at random, among those with an object of the requested class."""
    rows = np.arange(len(shards))
    if inspection.category is not None:
        if inspection.category not in shards.categories.names:
            raise ConfigError(
                f"--category {inspection.category}: no such class; the classes are "
                + ", ".join(shards.categories.names)
            )
        wanted = shards.categories.ids[shards.categories.names.index(inspection.category)]
        rows = np.array(
            [r for r, annotation in enumerate(annotations) if wanted in annotation["category_ids"]], np.int64
        )
    if not len(rows):
        what = f"no image with a {inspection.category}" if inspection.category else "no image"
        raise DataError(f"{inspection.folder} holds {what} to show")
    order = np.random.default_rng(inspection.seed).permutation(len(rows))
    return rows[order[: inspection.images]].tolist()


def _draw_sample(
    shards: ShardSet, annotations: Sequence[Mapping[str, Any]], names: Mapping[int, str], size: int, row: int
) -> np.ndarray:
    annotation = annotations[row]
    single = np.array(annotation["iscrowd"], np.int64) == 0
    boxes = np.array(annotation["boxes_xywh"], np.float64).reshape(-1, 4)[single]
    boxes[:, 2:] += boxes[:, :2]
    labels = np.array(annotation["category_ids"], np.int64)[single]
    return draw(load_image(shards, row), DrawnBoxes(boxes, labels), names, size=size)


def _pad_to_width(sheet: np.ndarray, width: int) -> np.ndarray:
    missing = max(0, width - sheet.shape[1])
    paper = np.full((sheet.shape[0], missing, 3), PAPER, np.uint8)
    return np.concatenate((sheet, paper), axis=1)


def _make_charts(census: Census, names: Mapping[int, str]) -> list[Bars]:
    order = np.argsort(-census.objects, kind="stable")[:_SHOWN_CLASSES]
    listed = list(names.values())
    sides = np.sqrt(census.areas)
    edges = 2.0 ** np.arange(1, 12)
    by_side = np.bincount(np.digitize(sides, edges), minlength=len(edges) + 1)
    most = int(np.percentile(census.per_image, 99)) + 1
    by_image = np.bincount(np.minimum(census.per_image, most), minlength=most + 1)
    hidden = len(listed) - len(order)
    more = f" (the {len(order)} most frequent of {len(listed)})" if hidden else ""
    return [
        Bars(f"objects of each class{more}", [listed[i] for i in order], census.objects[order].tolist()),
        Bars(
            "objects by the square root of their area, in pixels",
            ["< 2", *(f"{low:.0f} to {2 * low:.0f}" for low in edges[:-1]), f">= {edges[-1]:.0f}"],
            by_side.tolist(),
        ),
        Bars(
            "images by number of objects",
            [*map(str, range(most)), f">= {most}"],
            by_image.tolist(),
        ),
    ]


def _print_summary(census: Census, names: Mapping[int, str], console: Console) -> None:
    small = int((census.areas < _SMALL).sum())
    large = int((census.areas >= _MEDIUM).sum())
    total = len(census.areas)
    console.print(
        f"{len(census.per_image)} images, {int((census.per_image == 0).sum())} of them without objects; "
        f"{total} objects and {census.crowds} crowd regions\n"
        f"{small} small, {total - small - large} medium and {large} large objects, "
        f"{total / max(1, len(census.per_image)):.2f} per image",
        soft_wrap=True,
        highlight=False,
    )
    widest, listed = max(map(len, names.values())), list(names.values())
    objects, images = census.objects.tolist(), census.images.tolist()
    for i in np.argsort(-census.objects, kind="stable").tolist():
        bar = "█" * round(30 * objects[i] / max(1, *objects))
        line = f"{listed[i]:{widest}}  {objects[i]:>8} in {images[i]:>7} images  {bar}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def main(args: list[str] | None = None) -> None:
    """Command line of this module."""
    about = "Show samples of WebDataset shards with their boxes, and count classes and sizes."
    run_command(Inspection, lambda inspection: inspect(inspection, console=Console()), about=about, args=args)


if __name__ == "__main__":
    main()
