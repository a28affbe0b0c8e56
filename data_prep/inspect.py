"""Look into a set of shards: samples with their boxes, objects per class, sizes.

    python -m data_prep.inspect data/coco/train2017
    python -m data_prep.inspect data/coco/val2017 --images 48 --out val.png --category dog
    python -m data_prep.inspect data/mine/train data/mine/val --check

Writes one picture and prints the counts, or, with --check, says what may be wrong with labels and images.
Samples are read by offset, as in training.
"""

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from rich.console import Console

from data_prep.census import Census, count, make_charts, print_summary
from data_prep.charts import draw_bar_charts
from data_prep.command_line import run_command
from data_prep.doctor.check import examine
from data_prep.doctor.report import count_classes, describe, to_json
from data_prep.output import write_local
from data_prep.progress import show_progress
from data_prep.wording import plural
from qdet.console import open_console, print_line
from qdet.data.loading.sample import load_image
from qdet.data.shards.locate import Access
from qdet.data.shards.shard_set import ShardSet
from qdet.errors import ConfigError, DataError
from qdet.visualize.boxes import PAPER, DrawnBoxes, contact_sheet, draw, png

_MIN_WIDTH = 960  # pixels below which the charts are illegible


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """Which samples to show, and where to write the picture."""

    folder: Annotated[str | Path, tyro.conf.Positional]
    """Folder or URL of shards."""
    others: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """More of them, for --check: sets that must not share images with the first."""
    check: bool = False
    """Look for mistakes in labels and for copies of images instead of drawing samples."""
    json: bool = False
    """Print one object for programs instead of text."""
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
    max_bad: int = Access.max_bad
    """Samples of third-party shards that may be dropped because they cannot be used."""
    max_pixels: int = Access.max_pixels
    """Pixels of the largest image that is decoded."""

    @property
    def access(self) -> Access:
        """How shards are opened."""
        return Access(cache=self.cache, max_bad=self.max_bad, max_pixels=self.max_pixels)

    def __post_init__(self) -> None:
        """Raises: ConfigError."""
        if self.others and not self.check:
            raise ConfigError("several folders are compared by --check; without it, give one")
        if not 1 <= self.images <= 1000:
            raise ConfigError(f"--images must be 1 to 1000, got {self.images}")
        if not 64 <= self.size <= 2048:
            raise ConfigError(f"--size must be 64 to 2048 pixels, got {self.size}")
        if self.out.suffix.lower() != ".png":
            raise ConfigError(f"--out must end in .png, got {self.out}")


def inspect(inspection: Inspection, *, console: Console | None = None) -> Census:
    """Write the picture; print and return the counts.

    Raises:
        ConfigError: There is no such category.
        DataError: Shards cannot be read, no sample matches, or the picture cannot be written.
    """
    console = console or open_console(quiet=True)
    shards = ShardSet.open(inspection.folder, inspection.access)
    annotations = _read_annotations(shards, console)
    census = count(shards, annotations)
    rows = _choose_rows(shards, annotations, inspection)
    names = dict(zip(shards.categories.ids, shards.categories.names, strict=True))
    with ThreadPoolExecutor(4) as pool:
        pictures = list(pool.map(partial(_draw_sample, shards, annotations, names, inspection.size), rows))
    title = f"{inspection.folder}: {len(pictures)} of {len(shards)} images"
    sheet = contact_sheet(pictures, title=title)
    sheet = _pad_to_width(sheet, _MIN_WIDTH)
    page = np.concatenate((sheet, draw_bar_charts(make_charts(census, names), width=sheet.shape[1])))
    try:
        write_local(inspection.out, png(page))
    except OSError as error:
        raise DataError(f"--out {inspection.out} cannot be written: {error.strerror or error}") from error
    print_summary(census, names, console)
    print_line(console, f"{inspection.out}: {plural(len(pictures), 'sample')} with their boxes")
    return census


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


def _run(inspection: Inspection) -> None:
    if inspection.check:
        _run_check(inspection)
        return
    census = inspect(inspection, console=open_console(quiet=inspection.json))
    if inspection.json:
        shards = ShardSet.open(inspection.folder, inspection.access)
        counted = {
            "folder": shards.source,
            "images": len(census.per_image),
            "images_without_objects": int((census.per_image == 0).sum()),
            "objects": len(census.areas),
            "crowds": census.crowds,
            "classes": count_classes(shards.categories.names, census.objects, census.images),
        }
        print(json.dumps({"folders": [counted], "picture": str(inspection.out)}))


def _run_check(inspection: Inspection) -> None:
    folders = (inspection.folder, *inspection.others)
    seen = examine(folders, access=inspection.access, console=open_console(stderr=True))
    if inspection.json:
        print(json.dumps(to_json(seen)))
    else:
        print_line(open_console(), describe(seen))


def main(args: list[str] | None = None) -> None:
    """Command line of this module."""
    about = "Show samples of WebDataset shards with their boxes, count classes and sizes, look for mistakes."
    run_command(Inspection, _run, about=about, args=args)


if __name__ == "__main__":
    main()
