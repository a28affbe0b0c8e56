"""CPU time of reading a sample's bytes from shards, by every path.

    python -m benchmarks.shards        # images of QDET_COCO_ROOT; the numbers in docs/data.md

CPU time of this process, the minimum over interleaved rounds. Files are in the page cache, and the server is
another process on this machine.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console
from webdataset.compat import WebDataset

from benchmarks.copies import repeat_dataset
from data_prep.coco_to_shards import Conversion, convert
from qdet.data.shards.locate import Access
from qdet.data.shards.scan_shard import scan_shard
from qdet.data.shards.shard_set import ShardSet
from qdet.errors import DataError


@dataclass(frozen=True, kw_only=True)
class ShardsBenchmark:
    """What to measure."""

    coco: Path = Path(os.environ.get("QDET_COCO_ROOT", "../shared/coco128"))
    """COCO dataset in the standard layout."""
    split: str = "train2017"
    """Its split."""
    copies: int = 8
    """Repetitions of its images."""
    rounds: int = 5
    """Rounds, each of which runs every path once."""


def main(config: ShardsBenchmark) -> None:
    """Measure every path and print its CPU time per sample."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        coco = repeat_dataset(config.coco, config.split, config.copies, folder / "coco")
        out = folder / "shards"
        conversion = Conversion(coco=coco, split=config.split, out=out, shard_megabytes=16)
        convert(conversion, console=Console(quiet=True))
        server = subprocess.Popen(
            [sys.executable, "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", str(out)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )
        try:
            url = (server.stdout.readline() if server.stdout else "").split("(")[-1].split(")")[0]
            least = _measure(_list_readers(out, url, folder), config.rounds)
        finally:
            server.terminate()
            server.wait()
        samples = len(ShardSet.open(out))
        for name, seconds in least.items():
            print(f"{name:<42}{1000 * seconds / samples:8.3f} ms per sample")


def _list_readers(out: Path, url: str, folder: Path) -> dict[str, Callable[[], object]]:
    local = ShardSet.open(out)
    behind = ShardSet.open(url, Access(cache=str(folder / "cache")))
    tars = [str(out / shard["url"]) for shard in local.manifest["shardlist"]]
    fetched = iter(range(1000))

    def every(shards: ShardSet) -> None:
        for row in range(len(shards)):
            shards.read_image(row)
            shards.read_annotation(row)

    return {
        "whole files only": lambda: [Path(tar).read_bytes() for tar in tars],
        "by offset, with checksums": lambda: every(local),
        "the same through the cache": lambda: every(behind),
        "webdataset, undecoded": lambda: list(WebDataset(tars, shardshuffle=False)),
        "first scan of third-party shards": lambda: [
            scan_shard(os.open(tar, os.O_RDONLY), name=tar, max_pixels=Access.max_pixels) for tar in tars
        ],
        "through an empty cache, over HTTP": lambda: every(
            ShardSet.open(url, Access(cache=str(folder / f"empty-{next(fetched)}")))
        ),
    }


def _measure(readers: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    least = dict.fromkeys(readers, float("inf"))
    for _ in range(rounds):
        for name, read in readers.items():
            begin = time.process_time()
            read()
            least[name] = min(least[name], time.process_time() - begin)
    return least


if __name__ == "__main__":
    try:
        main(tyro.cli(ShardsBenchmark))
    except DataError as error:
        sys.exit(str(error))
