"""COCO-format images and annotations to WebDataset shards.

    python -m data_prep.coco_to_shards --coco DIR --split train2017 --out data/coco/train2017
    python -m data_prep.coco_to_shards --images DIR --annotations FILE --split train --out data/mine/train
    python -m data_prep.coco_to_shards --coco DIR --split train2017 --out s3://bucket/coco/train2017 --ray

Image files are copied byte for byte. An interrupted conversion resumes where it stopped, a finished one is
left as it is, and the same input always gives the same bytes, however many processes or machines write
them.
"""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from data_prep.annotations.coco import read_annotations
from data_prep.command_line import run_command
from data_prep.packing.dataset import pack_dataset
from data_prep.packing.settings import Packing, check_split_name
from qdet.console import open_console
from qdet.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Conversion(Packing):
    """What to convert, and how to cut it into shards."""

    split: str
    """Name of the split; with --coco, its images are in DIR/SPLIT."""
    out: str | Path
    """Folder or URL (s3://bucket/coco/train) that holds the shards of this split only."""
    coco: Path | None = None
    """Folder in COCO's layout: SPLIT/*.jpg and annotations/instances_SPLIT.json."""
    images: Path | None = None
    """Folder of the images, if not in COCO's layout."""
    annotations: Path | None = None
    """Annotation file, if not in COCO's layout."""
    renumber: bool = False
    """Renumber annotations, for files whose ids are missing, 0 or not unique."""

    def __post_init__(self) -> None:
        """Raises: ConfigError."""
        if self.coco is None and (self.images is None or self.annotations is None):
            raise ConfigError("name the dataset with --coco DIR, or with --images DIR and --annotations FILE")
        check_split_name(self.split)
        super().__post_init__()

    @property
    def images_folder(self) -> Path:
        """Folder of the images."""
        return self.images or (self.coco or Path()) / self.split

    @property
    def annotation_file(self) -> Path:
        """The annotation file."""
        return self.annotations or (self.coco or Path()) / "annotations" / f"instances_{self.split}.json"


def convert(conversion: Conversion, *, console: Console | None = None) -> dict[str, Any]:
    """Convert one split, reusing the finished shards of an interrupted conversion; return its manifest.

    Raises:
        DataError: Bad annotations or images, or a destination that holds other shards.
    """
    return pack_dataset(
        read_annotations(
            conversion.annotation_file,
            renumber=conversion.renumber,
            merge_categories=conversion.merge_categories,
            images_folder=conversion.images_folder,
            split=conversion.split,
        ),
        conversion.images_folder,
        split=conversion.split,
        out=conversion.out,
        settings=conversion,
        console=console,
    )


def _run(conversion: Conversion) -> None:
    if os.environ.get("RAY_ADDRESS"):
        conversion = replace(conversion, ray=True)
    convert(conversion, console=open_console())


def main(args: list[str] | None = None) -> None:
    """Command line of this module."""
    about = "Convert COCO-format images and annotations to WebDataset shards."
    run_command(Conversion, _run, about=about, args=args)


if __name__ == "__main__":
    main()
