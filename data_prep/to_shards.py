"""A dataset as people bring it to WebDataset shards: a folder of shards per split.

    python -m data_prep.to_shards photos --out data/photos
    python -m data_prep.to_shards photos --out data/photos --format voc --val-share 0.1
    python -m data_prep.to_shards photos --out data/photos --val more_photos --split val

Reads COCO, YOLO, Pascal VOC, LabelMe, CreateML and Hugging Face image folders; see docs/own_data.md. What
`data_prep.coco_to_shards` promises holds here too: images untouched, nothing lost silently, an interrupted
conversion resumes, a finished one is left as it is.
"""

import os
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.console import Console

from data_prep.datasets.format_names import Format
from data_prep.packing.settings import Packing
from qdet.console import open_console, print_line
from qdet.errors import ConfigError

if TYPE_CHECKING:
    from data_prep.datasets import Dataset


@dataclass(frozen=True, kw_only=True)
class Source:
    """What to convert."""

    folder: Annotated[Path, tyro.conf.Positional]
    """Folder of the dataset."""
    out: str | Path
    """Folder or URL to write OUT/train, OUT/val and OUT/test to."""
    format: Format | None = None
    """Format of the dataset; guessed if not given."""
    val: Path | None = None
    """Folder of the validation images, for a dataset without any."""
    val_share: float | None = None
    """Fraction of the training images to validate with instead, chosen by their names."""
    split: Literal["train", "val", "test"] | None = None
    """Write this split only."""
    follow_links: bool = False
    """Allow links that lead out of the folder."""


@dataclass(frozen=True, kw_only=True)
class ToShards(Packing, Source):
    """What to convert, and how to cut it into shards."""


def convert(settings: ToShards, *, console: Console | None = None) -> "Dataset":
    """Write every split of a dataset as shards.

    Raises:
        ConfigError: A flag cannot work.
        DataError: Bad annotations or images, or a destination that holds other shards.
    """
    from data_prep.datasets import open_dataset, pack_split

    console = console or open_console(quiet=True)
    dataset = open_dataset(
        settings.folder,
        format=settings.format,
        val=settings.val,
        val_share=settings.val_share,
        follow_links=settings.follow_links,
        merge_categories=settings.merge_categories,
    )
    if settings.split is not None and settings.split not in dataset.splits:
        raise ConfigError(f"--split {settings.split}: {settings.folder} has {', '.join(dataset.splits)}")
    print_line(console, dataset.describe())
    packing = _packing_of(settings)
    for name, split in dataset.splits.items():
        if settings.split in (None, name):
            pack_split(split, join_output(settings.out, name), packing, console=console)
    if "val" not in dataset.splits:
        print_line(console, "there is no val split; --val-share 0.1 holds a tenth of the training images out")
    return dataset


def join_output(out: str | Path, split: str) -> str | Path:
    """Return the folder or URL of a split below `--out`."""
    if "://" in str(out):
        return f"{str(out).rstrip('/')}/{split}"
    return Path(out) / split


def _packing_of(settings: ToShards) -> Packing:
    given = Packing(**{field.name: getattr(settings, field.name) for field in fields(Packing)})
    return replace(given, ray=True) if os.environ.get("RAY_ADDRESS") else given


def main(args: list[str] | None = None) -> None:
    """Command line of this module."""
    from data_prep.command_line import run_command

    about = "Convert a dataset of COCO, YOLO, Pascal VOC, LabelMe, CreateML or Hugging Face to shards."
    run_command(ToShards, lambda settings: convert(settings, console=open_console()), about=about, args=args)


if __name__ == "__main__":
    main()
