"""Whether shards still are what was written.

    python -m data_prep.verify data/coco/train2017
    python -m data_prep.verify data/coco/train2017 --decode

Sizes and checksums of all shards by default; `--decode` also decodes every image and reads every annotation.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro
from rich.console import Console
from rich.progress import track

from data_prep.command_line import command
from qdet.data.sample import load_image
from qdet.data.shards import ShardSet
from qdet.errors import DataError

T = TypeVar("T")
_SHOWN = 10


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What to check, and how closely."""

    folder: Annotated[Path, tyro.conf.Positional]
    """Folder of shards, as `data_prep.coco_to_shards` writes it."""
    decode: bool = False
    """Also decode every image."""


def verify(verification: Verification, *, console: Console | None = None) -> dict[str, Any]:
    """Check the shards and return their counts; DataError lists what is damaged."""
    console = console or Console(quiet=True)
    shards = ShardSet.open(verification.folder)
    listed = shards.manifest["shardlist"]
    problems = [
        p for p in _shown(map(_damage, _paths(shards), listed), len(listed), "checksums", console) if p
    ]
    if verification.decode and not problems:
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            found = pool.map(lambda row: _unreadable(shards, row), range(len(shards)))
            problems = [p for p in _shown(found, len(shards), "images", console) if p]
    counts = shards.manifest["counts"]
    if len(shards) != counts["images"] or int(shards.index.boxes.sum()) != counts["boxes"]:
        problems.append(
            f"{shards.path / 'index.npz'} and manifest.json do not count the same images and boxes"
        )
    if problems:
        more = f"\n  and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise DataError("damaged:\n  " + "\n  ".join(problems[:_SHOWN]) + more)
    checked = "every image decodes" if verification.decode else "all checksums agree"
    console.print(f"{shards.path}: {counts['images']} images in {len(listed)} shards, {checked}")
    return counts


def _paths(shards: ShardSet) -> Iterator[Path]:
    return (shards.path / shard["url"] for shard in shards.manifest["shardlist"])


def _damage(path: Path, shard: dict[str, Any]) -> str | None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found == shard["sha256"]:
        return None
    return f"{path} is not what was written: its sha256 differs; copy it again or convert the dataset again"


def _unreadable(shards: ShardSet, row: int) -> str | None:
    try:
        load_image(shards, row)
        shards.read_annotation(row)
    except DataError as error:
        return str(error)
    return None


def _shown(items: Iterable[T], total: int, what: str, console: Console) -> Iterable[T]:
    if not console.is_terminal:
        return items
    return track(items, description=what, total=total, console=console, transient=True)


def main(args: list[str] | None = None) -> None:
    """Command line of this module."""
    about = "Check that WebDataset shards still are what was written."
    command(
        Verification, lambda verification: verify(verification, console=Console()), about=about, args=args
    )


if __name__ == "__main__":
    main()
