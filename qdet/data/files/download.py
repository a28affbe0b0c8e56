"""Reading datasets wherever they are: what fails is a DataError that names the file.

A shard is fetched whole: what arrives is compared with the size and the checksum that it must have.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from qdet.errors import DataError, StorageError
from qdet.storage import Folder
from qdet.storage.network import Readable, retry

_CHUNK = 8 * 2**20


class Absent(DataError):
    """There is nothing at a path or URL."""


class _WrongContentError(Exception):
    """Bytes arrived, and they are not what was asked for."""


def read_bytes(address: str) -> bytes:
    """Return the content of a small file."""
    with explain_failure(address):
        folder, name = Folder.holding(address)
        return folder.read(name)


def size_of(address: str) -> int:
    """Bytes of a file; from behind a URL, as its server tells them."""
    with explain_failure(address):
        folder, name = Folder.holding(address)
        size = folder.size(name)
    if size is None:
        raise _absent(address)
    return size


def names_in(address: str) -> list[str]:
    """Names of what is in a folder; none where there is no folder or a server cannot list."""
    with explain_failure(address):
        folder = Folder.open(address)
        return sorted(folder.names() + folder.folders())


@contextmanager
def open_sequential(address: str) -> Iterator[Readable]:
    """Open a large file to be read from front to back."""
    with explain_failure(address):
        folder, name = Folder.holding(address)
        with folder.reader(name) as file:
            yield file


def fetch_file(address: str, to: Path) -> str:
    """Copy a file of unknown size into the new file `to`, piece by piece; return its sha256."""
    hashing = hashlib.sha256()
    with open_sequential(address) as source, to.open("xb") as file:
        while chunk := source.read(_CHUNK):
            hashing.update(chunk)
            _write(file, chunk)
    return hashing.hexdigest()


def download(url: str, to: Path, *, size: int, sha256: str | None) -> None:
    """Write the file at `url` into the existing file `to`, whose length may be the room it has.

    DataError unless it has `size` and, where that is known, `sha256`.
    """

    def attempt() -> None:
        hashing, length = hashlib.sha256(), 0
        with folder.reader(name, resume=False) as source, to.open("r+b") as file:
            while chunk := source.read(_CHUNK):
                length += len(chunk)
                if length > size:
                    raise _WrongContentError(f"it has more than the {size} bytes that are listed")
                hashing.update(chunk)
                _write(file, chunk)
        if length != size:
            raise _WrongContentError(f"it ended after {length} of {size} bytes")
        if sha256 is not None and hashing.hexdigest() != sha256:
            raise _WrongContentError("its sha256 is not the one that is listed")

    with explain_failure(url):
        folder, name = Folder.holding(url)
        retry(url, attempt)


@contextmanager
def explain_failure(address: str) -> Iterator[None]:
    """Turn an error of reading `address` into a DataError that names it; Absent where it is not there."""
    try:
        yield
    except FileNotFoundError as error:
        raise _absent(address) from error
    except StorageError as error:  # says what was read
        raise DataError(str(error)).because_of(error) from error
    except OSError as error:
        raise DataError(f"{address} cannot be read: {error.strerror or error}") from error


def _absent(address: str) -> Absent:
    return Absent(f"{address} is not there; check the address")


def _write(file: IO[bytes], chunk: bytes) -> None:
    try:
        file.write(chunk)
    except OSError as error:
        raise DataError(
            f"{file.name} cannot be written: {error.strerror or error}; "
            "make room, lower --data.cache-gb or name another --data.cache"
        ) from error
