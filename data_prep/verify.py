"""Check that shards are intact.

    python -m data_prep.verify data/coco/train2017              sizes and checksums
    python -m data_prep.verify data/coco/train2017 --fast       sizes, index and manifest only
    python -m data_prep.verify data/coco/train2017 --decode     also decodes every image

The folder may be a URL. All damage is listed, by shard and, where bytes differ, by sample.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import numpy as np
import tyro
from rich.console import Console

from data_prep.command_line import run_command
from data_prep.output import open_output
from data_prep.progress import show_progress
from data_prep.wording import plural
from qdet.console import open_console, print_line
from qdet.data.loading.sample import load_image
from qdet.data.shards.locate import Access
from qdet.data.shards.manifest import INDEX, NAME
from qdet.data.shards.shard_set import ShardSet
from qdet.errors import ConfigError, DataError
from qdet.storage import Folder

_SHOWN = 20
_CHUNK = 2**22


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What to check, and how thoroughly."""

    folder: Annotated[str | Path, tyro.conf.Positional]
    """Folder or URL of shards written by `data_prep.coco_to_shards`."""
    fast: bool = False
    """Check sizes, index and manifest only, without reading shards."""
    decode: bool = False
    """Also decode every image and read every annotation."""
    cache: str = Access.cache
    """Folder that caches remote shards."""
    max_pixels: int = Access.max_pixels
    """Pixels of the largest image that --decode decodes."""

    def __post_init__(self) -> None:
        """Raises: ConfigError."""
        if self.fast and self.decode:
            raise ConfigError("--fast reads no shard, --decode all of them; choose one")


def verify(verification: Verification, *, console: Console | None = None) -> dict[str, Any]:
    """Check the shards; return the manifest's counts.

    Raises:
        DataError: Shards are damaged; the message lists up to 20 of them.
    """
    console = console or open_console(quiet=True)
    shards = ShardSet.open(
        verification.folder, Access(cache=verification.cache, max_pixels=verification.max_pixels)
    )
    store = open_output(verification.folder)
    problems = [*_manifest_problems(shards), *_size_problems(shards, store), *_idx_problems(shards, store)]
    if not verification.fast and not problems:
        problems = _checksum_problems(shards, store, console)
    if verification.decode and not problems:
        problems = _image_problems(shards, console)
    if problems:
        more = f"\n  and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise DataError(
            f"{verification.folder} is damaged; copy the files below again or convert the dataset again:\n  "
            + "\n  ".join(problems[:_SHOWN])
            + more
        )
    counts = shards.manifest["counts"]
    checked = "every image decodes" if verification.decode else "all checksums match"
    print_line(
        console,
        f"{verification.folder}: {plural(counts['images'], 'image')} in "
        f"{plural(len(shards.manifest['shardlist']), 'shard')}, "
        f"{'all sizes match' if verification.fast else checked}",
    )
    return counts


def _manifest_problems(shards: ShardSet) -> Iterator[str]:
    counts = shards.manifest["counts"]
    if len(shards) != counts["images"] or int(shards.index.boxes.sum()) != counts["boxes"]:
        yield f"{INDEX} and {NAME} disagree on the number of images or boxes"
    if len(np.unique(shards.index.image_id)) != len(shards):
        yield f"{INDEX} has an image more than once"


def _size_problems(shards: ShardSet, store: Folder) -> Iterator[str]:
    for shard in shards.manifest["shardlist"]:
        size = store.size(shard["url"])
        if size is None:
            yield f"{store}/{shard['url']} is missing"
        elif size != shard["filesize"]:
            yield f"{store}/{shard['url']} has {size} bytes instead of {shard['filesize']}"


def _idx_problems(shards: ShardSet, store: Folder) -> Iterator[str]:
    """Compare DALI's offsets with the index."""
    i = shards.index
    for number, shard in enumerate(shards.manifest["shardlist"]):
        name = str(PurePosixPath(shard["url"]).with_suffix(".idx"))
        rows = np.flatnonzero(i.shard == number)
        begins = np.stack((i.image_offset[rows], i.annotation_offset[rows]), 1)
        lengths = np.stack((i.image_length[rows], i.annotation_length[rows]), 1)
        expected = [
            sorted(zip(begin, length, strict=True))
            for begin, length in zip(begins.tolist(), lengths.tolist(), strict=True)
        ]
        try:
            if _offsets(store.read(name)) != expected:
                yield f"{store}/{name} does not list the samples of {shard['url']}"
        except (OSError, ValueError) as error:
            yield f"{store}/{name} cannot be read: {error}"


def _offsets(idx: bytes) -> list[list[tuple[int, int]]]:
    """Parse a DALI index: (offset, length) of every file, by sample."""
    first, *lines = idx.decode("ascii").splitlines()
    if first != f"v1.2 {len(lines)}":
        raise ValueError(f"it begins with {first!r} and has {len(lines)} samples")
    words = [line.split() for line in lines]
    return [[(int(at), int(length)) for at, length in zip(w[1::4], w[2::4], strict=True)] for w in words]


def _checksum_problems(shards: ShardSet, store: Folder, console: Console) -> list[str]:
    listed = shards.manifest["shardlist"]
    sizes = [shard["filesize"] for shard in listed]

    def damage(number: int) -> list[str]:
        name = listed[number]["url"]
        if _sha256(store, name) == listed[number]["sha256"]:
            return []
        rows = np.flatnonzero(shards.index.shard == number).tolist()
        named = [problem for row in rows if (problem := _find_damage(shards, row, decode=False))]
        return named or [f"{store}/{name} is damaged between its samples: its sha256 differs"]

    return _collect(damage, sizes, "checksums", console)


def _image_problems(shards: ShardSet, console: Console) -> list[str]:
    def damage(row: int) -> list[str]:
        problem = _find_damage(shards, row, decode=True)
        return [problem] if problem else []

    return _collect(damage, shards.index.image_length.tolist(), "images", console)


def _collect(
    find: Callable[[int], list[str]], sizes: Sequence[int], what: str, console: Console
) -> list[str]:
    """Call `find` on every index of `sizes` in threads; return the problems in order."""
    problems: list[str] = []
    with (
        show_progress(what, sum(sizes), console) as advance,
        ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool,
    ):
        for found, size in zip(pool.map(find, range(len(sizes))), sizes, strict=True):
            problems += found
            advance(size)
    return problems


def _find_damage(shards: ShardSet, row: int, *, decode: bool) -> str | None:
    try:
        shards.read_annotation(row)
        if decode:
            load_image(shards, row)
        else:
            shards.read_image(row)
    except DataError as error:
        return str(error)
    return None


def _sha256(store: Folder, name: str) -> str:
    found = hashlib.sha256()
    with store.reader(name) as file:
        while chunk := file.read(_CHUNK):
            found.update(chunk)
    return found.hexdigest()


def main(args: list[str] | None = None) -> None:
    """Command line of this module."""
    about = "Check that WebDataset shards are intact."
    run_command(
        Verification,
        lambda verification: verify(verification, console=open_console()),
        about=about,
        args=args,
    )


if __name__ == "__main__":
    main()
