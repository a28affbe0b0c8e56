"""Pack a split into a folder of shards."""

from pathlib import Path
from typing import TypeVar

from rich.console import Console

from data_prep.datasets.dataset import Split
from data_prep.packing.dataset import pack_dataset
from data_prep.packing.settings import Packing

Where = TypeVar("Where", bound=str | Path)


def pack_split(
    split: Split, out: Where, settings: Packing | None = None, *, console: Console | None = None
) -> Where:
    """Write a split as shards; does nothing if they are there in full, of the same input and settings.

    Args:
        split: What to pack.
        out: Folder or URL for the shards of this split only.
        settings: How to check images and cut shards.
        console: Where progress and the summary are printed; by default nowhere.

    Returns:
        `out`.

    Raises:
        DataError: Bad images, or a destination that holds other shards.
    """
    pack_dataset(
        split.annotations,
        split.images_folder,
        split=split.name,
        out=out,
        settings=settings or Packing(),
        console=console,
    )
    return out
