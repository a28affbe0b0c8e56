"""What is in a set of shards, to look at: samples with their boxes, how many of each class, how large.

    python -m data_prep.inspect data/coco/train2017
    python -m data_prep.inspect data/coco/val2017 --images 48 --out val.png --category dog

writes one picture and prints the counts. Samples are read as training reads them: from the shards, by offset.
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

from data_prep.charts import Bars, bar_charts
from data_prep.command_line import command
from data_prep.output import write_local
from data_prep.progress import progress
from qdet.data.loading.sample import load_image
from qdet.data.shards.locate import Access
from qdet.data.shards.shard_set import ShardSet
from qdet.errors import ConfigError, DataError
from qdet.visualize import PAPER, DrawnBoxes, contact_sheet, draw, png

_SMALL, _MEDIUM = 32**2, 96**2  # where COCO's evaluation divides areas
_SHOWN_CLASSES = 40
_NARROWEST = 960  # pixels that the charts need to be read


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What to look at, and where the picture goes."""

    folder: Annotated[str | Path, tyro.conf.Positional]
    """Folder or URL of shards."""
    out: Path = Path("inspect.png")
    """File for the picture."""
    images: int = 24
    """Samples to show."""
    category: str | None = None
    """Show only samples with an object of this class."""
    seed: int = 0
    """Which samples are drawn."""
    size: int = 320
    """Longer side of each sample in the picture, in pixels."""
    cache: str = Access.cache
    """Folder for copies of shards that lie behind a URL."""

    def __post_init__(self) -> None:
        """Reject what cannot be shown, in the words of the command line."""
        if not 1 <= self.images <= 1000:
            raise ConfigError(f"--images must be 1 to 1000, got {self.images}")
        if not 64 <= self.size <= 2048:
            raise ConfigError(f"--size must be 64 to 2048 pixels, got {self.size}")
        if self.out.suffix.lower() != ".png":
            raise ConfigError(f"--out must end in .png, got {self.out}")


@dataclass(frozen=True)
class Census:
    """What was counted over all samples."""

    objects: np.ndarray
    """How many of each class, in the order of the categories; crowds left out."""
    images: np.ndarray
    """In how many images each class occurs."""
    per_image: np.ndarray
    """Objects of every image."""
    areas: np.ndarray
    """Annotated area of every object, in pixels."""
    crowds: int
    """Crowd regions."""


def inspect(inspection: Inspection, *, console: Console | None = None) -> Census:
    """Write the picture, print the counts and return them."""
    console = console or Console(quiet=True)
    shards = ShardSet.open(inspection.folder, Access(cache=inspection.cache))
    notes = _annotations(shards, console)
    census = count(shards, notes)
    rows = _drawn(shards, notes, inspection)
    names = dict(zip(shards.categories.ids, shards.categories.names, strict=True))
    with ThreadPoolExecutor(4) as pool:
        pictures = list(pool.map(partial(_picture, shards, notes, names, inspection.size), rows))
    title = f"{inspection.folder}: {len(pictures)} of {len(shards)} images"
    sheet = contact_sheet(pictures, title=title)
    sheet = _at_least_as_wide(sheet, _NARROWEST)
    page = np.concatenate((sheet, bar_charts(_charts(census, names), width=sheet.shape[1])))
    try:
        write_local(inspection.out, png(page))
    except OSError as error:
        raise DataError(f"--out {inspection.out} cannot be written: {error.strerror or error}") from error
    _tell(census, names, console)
    console.print(f"{inspection.out}: {len(pictures)} samples with their boxes", soft_wrap=True)
    return census


def count(shards: ShardSet, notes: Sequence[Mapping[str, Any]]) -> Census:
    """Count classes and sizes in the annotations of all samples."""
    classes = len(shards.categories)
    objects, images = np.zeros(classes, np.int64), np.zeros(classes, np.int64)
    per_image, areas, crowds = [], [], 0
    for note in notes:
        single = np.array(note["iscrowd"], np.int64) == 0
        found = np.bincount(shards.categories.contiguous(note["category_ids"])[single], minlength=classes)
        objects += found
        images += found > 0
        per_image.append(int(single.sum()))
        areas.append(np.array(note["areas"], np.float64)[single])
        crowds += int((~single).sum())
    return Census(objects, images, np.array(per_image), np.concatenate(areas), crowds)


def _annotations(shards: ShardSet, console: Console) -> list[dict[str, Any]]:
    notes = []
    lengths = shards.index.annotation_length.tolist()
    with progress("reading annotations", sum(lengths), console) as advance:
        for row, length in enumerate(lengths):
            notes.append(shards.read_annotation(row))
            advance(length)
    return notes


def _drawn(shards: ShardSet, notes: Sequence[Mapping[str, Any]], inspection: Inspection) -> list[int]:
    """Choose rows at random, with an object of the class that is asked for."""
    rows = np.arange(len(shards))
    if inspection.category is not None:
        if inspection.category not in shards.categories.names:
            raise ConfigError(
                f"--category {inspection.category}: there is no such class; there are "
                + ", ".join(shards.categories.names)
            )
        wanted = shards.categories.ids[shards.categories.names.index(inspection.category)]
        rows = np.array([r for r, note in enumerate(notes) if wanted in note["category_ids"]], np.int64)
    if not len(rows):
        what = f"no image with a {inspection.category}" if inspection.category else "no image"
        raise DataError(f"{inspection.folder} holds {what} to show")
    order = np.random.default_rng(inspection.seed).permutation(len(rows))
    return rows[order[: inspection.images]].tolist()


def _picture(
    shards: ShardSet, notes: Sequence[Mapping[str, Any]], names: Mapping[int, str], size: int, row: int
) -> np.ndarray:
    note = notes[row]
    single = np.array(note["iscrowd"], np.int64) == 0
    boxes = np.array(note["boxes_xywh"], np.float64).reshape(-1, 4)[single]
    boxes[:, 2:] += boxes[:, :2]
    labels = np.array(note["category_ids"], np.int64)[single]
    return draw(load_image(shards, row), DrawnBoxes(boxes, labels), names, size=size)


def _at_least_as_wide(sheet: np.ndarray, width: int) -> np.ndarray:
    missing = max(0, width - sheet.shape[1])
    paper = np.full((sheet.shape[0], missing, 3), PAPER, np.uint8)
    return np.concatenate((sheet, paper), axis=1)


def _charts(census: Census, names: Mapping[int, str]) -> list[Bars]:
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
            "images by how many objects they have",
            [*map(str, range(most)), f">= {most}"],
            by_image.tolist(),
        ),
    ]


def _tell(census: Census, names: Mapping[int, str], console: Console) -> None:
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
    command(Inspection, lambda inspection: inspect(inspection, console=Console()), about=about, args=args)


if __name__ == "__main__":
    main()
