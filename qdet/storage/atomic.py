"""Local files that appear under their name only when they are whole."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4


@contextmanager
def atomic_file(path: Path, *, durable: bool = True) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path` for writing, and rename it to `path` once it is safely on disk.

    Without `durable` it is renamed before the disk has it, which is much faster for many small files.
    After any failure nothing is left behind.

    Raises:
        OSError: What the disk says.
    """
    temporary = path.with_name(f"{unfinished_prefix(path.name)}{uuid4().hex[:8]}")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(temporary, path)  # noqa: PTH105 - the name that says what happens
    finally:
        temporary.unlink(missing_ok=True)


def unfinished_prefix(name: str) -> str:
    """How the temporary files begin that become the file `name`."""
    return f".{name}.tmp-"


def is_unfinished(name: str) -> bool:
    """Whether a file of that name is one that a killed process never finished."""
    return name.startswith(".") and ".tmp-" in name


def remove_unfinished(folder: Path) -> None:
    """Remove the files in `folder` that a killed process never finished."""
    for leftover in folder.glob(".*.tmp-*"):
        leftover.unlink(missing_ok=True)


def make_folders(folder: Path) -> None:
    """Make a folder and those above it that are missing, and bring their names to the disk."""
    missing = []
    for above in (folder, *folder.parents):
        if above.is_dir():
            break
        missing.append(above)
    folder.mkdir(parents=True, exist_ok=True)
    for made in reversed(missing):
        sync_folder(made.parent)


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk, where the system can: a rename may else be lost with power."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
