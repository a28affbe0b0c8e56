"""Whole files from behind a URL, to the last byte or with an error that names them.

A server that stalls, fails or breaks off is asked again a few times; what arrives is compared with the size
and the checksum that it must have.
"""

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, TypeVar

from qdet.errors import DataError
from qdet.storage.filesystem import filesystem, is_object_store

T = TypeVar("T")
PAUSES = (0.5, 1.0, 2.0)
"""Seconds between attempts."""
STALLED = 60.0
"""Seconds without a byte after which an attempt over HTTP is given up."""
_CHUNK = 8 * 2**20


class Absent(DataError):
    """There is nothing at a URL."""


class _Broken(Exception):
    """Bytes arrived, and they are not what was asked for."""


def read_bytes(url: str) -> bytes:
    """Content of a small file."""

    def read() -> bytes:
        with _stream(url) as stream:
            return stream.read()

    return _patiently(url, read)


def size_of(url: str) -> int:
    """Bytes of a file, as its server tells them."""

    def ask() -> int:
        files, path = _files(url)
        size = files.size(path)
        if size is None:
            raise DataError(f"{url}: its server does not tell its size; serve it as a plain file")
        return int(size)

    return _patiently(url, ask)


def names_in(url: str) -> list[str]:
    """Names of what is in a folder, of this machine too; none where there is none or a server cannot list."""
    if url.startswith(("http://", "https://")):
        return []  # what a web page links to is no list of files

    def ask() -> list[str]:
        files, path = _files(url)
        try:
            return sorted(entry.rstrip("/").rpartition("/")[2] for entry in files.ls(path, detail=False))
        except FileNotFoundError:
            return []

    return _patiently(url, ask)


def download(url: str, to: Path, *, size: int, sha256: str | None) -> None:
    """Write the file at `url` into the existing file `to`, whose length may be the room it has.

    DataError unless it has `size` and, where that is known, `sha256`.
    """

    def attempt() -> None:
        hashing, length = hashlib.sha256(), 0
        with _stream(url, size=size) as stream, to.open("r+b") as file:
            while chunk := stream.read(_CHUNK):
                length += len(chunk)
                if length > size:
                    raise _Broken(f"it has more than the {size} bytes that are listed")
                hashing.update(chunk)
                _write(file, chunk)
        if length != size:
            raise _Broken(f"it ended after {length} of {size} bytes")
        if sha256 is not None and hashing.hexdigest() != sha256:
            raise _Broken("its sha256 is not the one that is listed")

    _patiently(url, attempt)


class FrontToBack:
    """The bytes at a URL in their order; a server that breaks off is asked again, for what is left."""

    def __init__(self, url: str) -> None:
        self._url, self._at = url, 0
        self._open: Any = None

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes, and none at the end."""
        data = _patiently(self._url, lambda: self._attempt(size))
        self._at += len(data)
        return data

    def close(self) -> None:
        """Let go of the server."""
        if self._open is not None:
            self._open.close()
            self._open = None

    def _attempt(self, size: int) -> bytes:
        try:
            if self._open is None:
                self._open = _stream(self._url)
                self._skip(self._at)
            return self._open.read(size)
        except Exception:
            self.close()
            raise

    def _skip(self, left: int) -> None:
        while left:
            chunk = self._open.read(min(left, _CHUNK))
            if not chunk:
                raise _Broken("it is shorter than it was")
            left -= len(chunk)


def _write(file: IO[bytes], chunk: bytes) -> None:
    try:
        file.write(chunk)
    except OSError as error:
        raise DataError(
            f"{file.name} cannot be written: {error.strerror or error}; "
            "make room, lower --data.cache-gb or name another --data.cache"
        ) from error


def _patiently(url: str, act: Callable[[], T]) -> T:
    pauses = iter(PAUSES)
    while True:
        try:
            return act()
        except DataError:
            raise
        except FileNotFoundError as error:
            raise Absent(f"{url} is not there; check the address") from error
        except Exception as error:  # every kind of file system has errors of its own
            pause = next(pauses, None)
            if pause is None or _refused(error):
                said = str(error) or type(error).__name__
                raise DataError(f"{url} cannot be read: {said}; check the server and the address") from error
            time.sleep(pause)


def _refused(error: Exception) -> bool:
    """Whether asking again is no use."""
    status = getattr(error, "status", 500)  # aiohttp's errors have one
    return isinstance(error, PermissionError) or (400 <= status < 500 and status not in (408, 429))


def _stream(url: str, *, size: int | None = None) -> Any:
    """Open a file to be read once from front to back."""
    files, path = _files(url)
    if is_object_store(url):
        return files.open(path, "rb", seekable=False)
    if url.startswith(("http://", "https://")):
        # Block size 0 asks for one plain GET; any size spares the question for it.
        return files.open(path, "rb", block_size=0, size=size or 1)
    return files.open(path, "rb")


def _files(url: str) -> tuple[Any, str]:
    """File system of a URL, and the path in it."""
    return filesystem(url, **_http_options(url))


def _http_options(url: str) -> dict[str, Any]:
    if not url.startswith(("http://", "https://")):
        return {}
    from aiohttp import ClientTimeout

    return {"client_kwargs": {"timeout": ClientTimeout(total=None, sock_connect=STALLED, sock_read=STALLED)}}
