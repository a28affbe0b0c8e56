"""Files that appear under their name only when they are whole."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from qdet.errors import DataError


@contextmanager
def atomic_file(path: Path, *, durable: bool = True) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path` for writing, and give it that name once it is safely on disk.

    Without `durable` it gets its name before the disk has it, which is much faster for many small files.
    After any failure nothing is left behind; a full disk is a DataError that names the file.
    """
    temporary = path.with_name(f".{path.name}.tmp-{uuid4().hex[:8]}")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(temporary, path)  # noqa: PTH105 - the name that says what happens
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise DataError(
                f"no space left for {path} ({error.strerror}); nothing of it was kept, files finished before "
                "it were: free some space and run the same command again"
            ) from error
        if isinstance(error, FileNotFoundError) and not temporary.exists():
            raise DataError(
                f"{temporary} vanished while it was written: does another command write to {path.parent}, or "
                "was the folder removed? Run one at a time"
            ) from error
        if isinstance(error, PermissionError | NotADirectoryError):
            raise DataError(f"{path} cannot be written: {error.strerror}") from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> None:
    """Remove what a process that was killed left of files in `folder`."""
    for leftover in folder.glob(".*.tmp-*"):
        leftover.unlink(missing_ok=True)


def write_atomically(path: Path, data: bytes) -> None:
    """Write a whole small file."""
    with atomic_file(path) as file:
        file.write(data)
