"""Reading over a network: a server that stalls, fails or breaks off is asked again a few times."""

import time
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from qdet.errors import QdetError, StorageError
from qdet.storage.proxies import name_proxy

T = TypeVar("T")
PAUSES = (0.5, 1.0, 2.0)
"""Seconds between attempts."""
STALLED = 60.0
"""Seconds without a byte after which an attempt over HTTP is given up."""
_CHUNK = 8 * 2**20


class Readable(Protocol):
    """A file read from front to back."""

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes, and none at the end."""
        ...


def retry(url: str, act: Callable[[], T]) -> T:
    """Return what `act` returns; call it again while it fails, a few times.

    Args:
        url: What is read, for messages.
        act: May be called any number of times. A QdetError of its own ends the attempts.

    Raises:
        OSError: There is nothing at `url`, or it is not a file.
        StorageError: The last attempt failed too, or the server refuses.
    """
    pauses = iter(PAUSES)
    while True:
        try:
            return act()
        except (QdetError, FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise
        except Exception as error:  # every kind of file system has errors of its own
            pause = next(pauses, None)
            if pause is None or _is_refusal(error):
                said = str(error) or type(error).__name__
                raise StorageError(
                    f"{url} cannot be read{name_proxy(url)}: {said}; check the server and the address"
                ) from error
            time.sleep(pause)


class ResumingReader:
    """A file behind a URL, read from front to back; after a failure it is opened again for the rest.

    Args:
        url: Of the file, for messages.
        open_file: Opens it at its first byte.
    """

    def __init__(self, url: str, open_file: Callable[[], Any]) -> None:
        self._url, self._open_file = url, open_file
        self._at, self._file = 0, None

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes, and none at the end; raises what `retry` does."""
        data = retry(self._url, lambda: self._attempt(size))
        self._at += len(data)
        return data

    def close(self) -> None:
        """Close the connection."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _attempt(self, size: int) -> bytes:
        try:
            if self._file is None:
                self._file = self._open_file()
                self._skip(self._file, self._at)
            return self._file.read(size)
        except Exception:
            self.close()
            raise

    @staticmethod
    def _skip(file: Any, left: int) -> None:
        while left:
            chunk = file.read(min(left, _CHUNK))
            if not chunk:
                raise EOFError("it is shorter than it was")
            left -= len(chunk)


def http_options(url: str) -> dict[str, Any]:
    """Options of fsspec's file system for `url`: time limits over HTTP."""
    if not url.startswith(("http://", "https://")):
        return {}
    from aiohttp import ClientTimeout

    return {"client_kwargs": {"timeout": ClientTimeout(total=None, sock_connect=STALLED, sock_read=STALLED)}}


def _is_refusal(error: Exception) -> bool:
    """Whether another attempt is no use."""
    status = getattr(error, "status", 500)  # aiohttp's errors have one
    return isinstance(error, PermissionError) or (400 <= status < 500 and status not in (408, 429))
