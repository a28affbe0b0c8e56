"""Fetch COCO's official archives and unpack them into the layout that `coco_to_shards` reads.

    python -m data_prep.download --coco 2017 --to /data/coco
    python -m data_prep.download --coco 2017 --to /data/coco --parts val annotations

An interrupted download resumes when the command is run again. Every archive is checked against its published
size and checksum before it is unpacked, and removed afterwards unless --keep-archives.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from rich.console import Console

from data_prep.command_line import run_command
from data_prep.downloading.fetch import Expected, check_file, fetch
from data_prep.downloading.unpack import unpack, unpacked_bytes
from data_prep.output import write_local
from data_prep.progress import show_progress
from data_prep.wording import plural
from qdet.console import open_console, print_line
from qdet.errors import ConfigError, DataError

Part = Literal["train", "val", "annotations"]


@dataclass(frozen=True, kw_only=True)
class Archive:
    """One published file."""

    path: str
    """Path below the server's root."""
    expected: Expected

    @property
    def name(self) -> str:
        """File name."""
        return self.path.rpartition("/")[2]


COCO: dict[str, dict[Part, Archive]] = {
    "2017": {
        "train": Archive(
            path="zips/train2017.zip",
            expected=Expected(size=19_336_861_798, md5="cced6f7f71b7629ddf16f17bbcfab6b2"),
        ),
        "val": Archive(
            path="zips/val2017.zip",
            expected=Expected(size=815_585_330, md5="442b8da7639aecaf257c1dceb8ba8c80"),
        ),
        "annotations": Archive(
            path="annotations/annotations_trainval2017.zip",
            expected=Expected(size=252_907_541, md5="f4bbac642086de4f52a3fdda2de5fa2c"),
        ),
    }
}
"""What cocodataset.org publishes. Sizes and checksums are third-party records; the site lists none."""


@dataclass(frozen=True, kw_only=True)
class Download:
    """Which archives to fetch, and where to put them."""

    coco: Literal["2017"]
    """Year of the dataset."""
    to: Path
    """Folder to unpack into: DIR/train2017, DIR/val2017, DIR/annotations."""
    parts: tuple[Part, ...] = get_args(Part)
    """Archives to fetch."""
    server: str = "http://images.cocodataset.org"
    """Server of the archives; a mirror must hold the same files."""
    keep_archives: bool = False
    """Keep the archives after unpacking."""

    def __post_init__(self) -> None:
        """Raises: ConfigError."""
        if not self.parts:
            raise ConfigError(f"--parts needs at least one of {', '.join(get_args(Part))}")
        if not self.server.startswith(("http://", "https://")):
            raise ConfigError(f"--server must begin with http:// or https://, got {self.server}")


def download(config: Download, *, console: Console | None = None, wait: float = 1.0) -> None:
    """Fetch, check and unpack the archives that are missing; `wait` in seconds, as in `fetch`.

    Raises:
        DataError: The server, an archive or the disk's free space does not allow it.
    """
    console = console or open_console(quiet=True)
    for part in dict.fromkeys(config.parts):
        _fetch_and_unpack(COCO[config.coco][part], config, console, wait)


def _fetch_and_unpack(archive: Archive, config: Download, console: Console, wait: float) -> None:
    try:
        config.to.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"--to {config.to} cannot be written: {error.strerror}") from error
    done = config.to / f".{archive.name}.done"
    if done.is_file():
        print_line(console, f"{archive.name} is already unpacked in {config.to}")
        return
    file = config.to / archive.name
    if file.is_file():
        check_file(file, archive.expected)
    else:
        size = archive.expected.size or 0
        _check_space(config.to, size, f"to fetch {archive.name}")
        with show_progress(archive.name, size, console) as advance:
            url = f"{config.server.rstrip('/')}/{archive.path}"
            fetch(url, file, archive.expected, advance=advance, wait=wait)
    size = unpacked_bytes(file)
    _check_space(config.to, size, f"to unpack {archive.name}")
    with show_progress(f"unpacking {archive.name}", size, console) as advance:
        files = unpack(file, config.to, advance=advance)
    write_local(done, json.dumps({"files": files, "md5": archive.expected.md5}).encode())
    if not config.keep_archives:
        file.unlink()
    print_line(console, f"{archive.name}: {plural(files, 'file')} in {config.to}")


def _check_space(folder: Path, needed: int, purpose: str) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DataError(f"{folder} has {free / 1e9:.1f} GB free, {needed / 1e9:.1f} GB are needed {purpose}")


def main(args: list[str] | None = None) -> None:
    """Command line of this module."""
    about = "Fetch and unpack COCO's official archives."
    run_command(Download, lambda config: download(config, console=open_console()), about=about, args=args)


if __name__ == "__main__":
    main()
