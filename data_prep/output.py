"""Write the files of a dataset, whole or not at all; a failure is a DataError that says what to do."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from qdet.errors import ConfigError, DataError, StorageError
from qdet.storage import Folder
from qdet.storage.atomic import atomic_file, unfinished_prefix

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def open_output(where: str | Path) -> Folder:
    """Return the folder of a dataset at a path or URL.

    Raises:
        ConfigError: Nothing installed here opens such a URL.
    """
    try:
        return Folder.open(where)
    except StorageError as error:
        raise ConfigError(str(error)) from error


@contextmanager
def open_writer(folder: Folder, name: str) -> Iterator[BinaryIO]:
    """Open a file for writing that appears under its name only if the block succeeds."""
    with explain_failure(folder, name), folder.writer(name) as file:
        yield file


def write(folder: Folder, name: str, content: bytes) -> None:
    """Write a whole small file."""
    with open_writer(folder, name) as file:
        file.write(content)


@contextmanager
def open_local(file: Path, *, durable: bool = True) -> Iterator[BinaryIO]:
    """Do the same for a local file in an existing folder; see `atomic_file`."""
    with explain_failure(file.parent, file.name), atomic_file(file, durable=durable) as opened:
        yield opened


def write_local(file: Path, content: bytes) -> None:
    """Write a whole small local file in an existing folder."""
    with open_local(file) as opened:
        opened.write(content)


@contextmanager
def explain_failure(folder: Folder | Path, name: str) -> Iterator[None]:
    """Turn errors of writing the file `name` in `folder` into a DataError."""
    try:
        yield
    except StorageError as error:  # its message names the file
        raise DataError(str(error)) from error
    except OSError as error:
        raise DataError(_explain(error, folder, name)) from error


def _explain(error: OSError, folder: Folder | Path, name: str) -> str:
    said = error.strerror or str(error)
    if error.errno in _FULL:
        return (
            f"no space left for {folder}/{name} ({said}); nothing of it was kept, files finished before "
            "it were: free some space and run the same command again"
        )
    failed = Path(str(error.filename)).name
    if isinstance(error, FileNotFoundError) and failed.startswith(unfinished_prefix(Path(name).name)):
        return (
            f"{error.filename} vanished while it was written: does another command write to {folder}, or "
            "was the folder removed? Run one at a time"
        )
    local = folder if isinstance(folder, Path) else folder.local
    if local is not None and not local.is_dir():
        return f"{folder} cannot be written: {said}"
    return f"{folder}/{name} cannot be written: {said}"
