"""Reading over a network: a server that stalls, fails or breaks off is asked again.

A command, for which a person waits, gives up after some seconds. A training keeps asking for minutes while
the server is away (`patient`), and then fails with a transient error, after which launchers start it again.
What a server refuses, or sends wrong, asking longer does not mend.
"""

import os
import random
import re
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from http.client import HTTPException
from typing import Any, Protocol, TypeVar

from qdet.errors import QdetError, StorageError
from qdet.storage.guard import ForbiddenAddressError, GuardedClient
from qdet.storage.proxies import name_proxy

T = TypeVar("T")
PAUSES = (0.5, 1.0, 2.0)
"""Seconds between the first attempts."""
LONGEST_PAUSE = 30.0
"""Seconds up to which further pauses double."""
JITTER = 0.25
"""Share by which pauses are longer or shorter, so that many processes do not ask at the same moment."""
PATIENCE = "QDET_PATIENCE_S"
"""Environment variable: seconds for which this process, and those it starts, ask a server that is away."""
MINUTES = 300.0
"""Seconds that a training is patient for, unless the variable says otherwise."""
STALLED = 60.0
"""Seconds without a byte after which an attempt over HTTP is given up."""
_CHUNK = 8 * 2**20
_ASK_AGAIN = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS)
_REFUSALS = re.compile(r"ACCESS_DENIED|NO_SUCH_BUCKET|INVALID_ACCESS_KEY|SIGNATURE_DOES_NOT_MATCH")  # of S3
sleep, monotonic = time.sleep, time.monotonic


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
        StorageError: The last attempt failed too, or the server refuses; transient if the server was away.
    """
    until, attempt = monotonic() + _patience(), 0
    while True:
        try:
            return act()
        except (QdetError, FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise
        except Exception as error:  # every kind of file system has errors of its own
            pause = _pause(error, attempt, until - monotonic())
            if pause is None:
                raise _give_up(url, error) from error
            sleep(pause)
            attempt += 1


@contextmanager
def patient() -> Iterator[None]:
    """Keep asking servers that are away for minutes, in this process and those it starts inside the block."""
    given = os.environ.get(PATIENCE)
    os.environ.setdefault(PATIENCE, str(MINUTES))
    try:
        yield
    finally:
        if given is None:
            os.environ.pop(PATIENCE, None)


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


def is_refused(error: BaseException) -> bool:
    """Whether a server has answered, over HTTP, that it does not give this, however often it is asked."""
    status = getattr(error, "status", 500)  # aiohttp's errors have one
    return 400 <= status < 500 and status not in _ASK_AGAIN


def http_options(url: str) -> dict[str, Any]:
    """Options of fsspec's file system for `url`: over HTTP time limits, and where its server may lead."""
    if not url.startswith(("http://", "https://")):
        return {}
    from aiohttp import ClientTimeout

    timeout = ClientTimeout(total=None, sock_connect=STALLED, sock_read=STALLED)
    return {"client_kwargs": {"timeout": timeout}, "get_client": GuardedClient.of(url)}


def _patience() -> float:
    try:
        return float(os.environ.get(PATIENCE) or 0)
    except ValueError:
        raise StorageError(f"{PATIENCE}={os.environ[PATIENCE]}: not a number of seconds") from None


def _pause(error: Exception, attempt: int, left: float) -> float | None:
    """Return the seconds before the next attempt, with patience for `left` more; None: give up."""
    if _is_refusal(error):
        return None
    if attempt < len(PAUSES):
        usual = PAUSES[attempt]
    elif _is_away(error) and left > 0:
        usual = min(LONGEST_PAUSE, 2.0 ** (attempt - len(PAUSES) + 2))
    else:
        return None
    usual *= 1 + random.uniform(-JITTER, JITTER)
    return max(usual, min(_retry_after(error), left))


def _give_up(url: str, error: Exception) -> StorageError:
    said = str(error) or type(error).__name__
    failure = StorageError(f"{url} cannot be read{name_proxy(url)}: {said}; check the server and the address")
    failure.transient = _is_away(error)
    return failure


def _is_refusal(error: Exception) -> bool:
    """Whether another attempt is no use."""
    kinds = PermissionError | ssl.CertificateError | ForbiddenAddressError
    lasting = isinstance(error, kinds) or _REFUSALS.search(str(error))
    return is_refused(error) or bool(lasting)


def _is_away(error: Exception) -> bool:
    """Whether it is the fault of a server or of the way to it, rather than of what is asked for."""
    kinds = OSError | TimeoutError | HTTPException
    broken_off = type(error).__module__.partition(".")[0] == "aiohttp" and not isinstance(error, ValueError)
    return (isinstance(error, kinds) or broken_off) and not _is_refusal(error)


def _retry_after(error: Exception) -> float:
    """Return the seconds that the server asks to be left alone for (RFC 9110, 10.2.3), 0 if it does not."""
    said = (getattr(error, "headers", None) or {}).get("Retry-After", "")
    if said.isdecimal():
        return float(said)
    try:
        return (parsedate_to_datetime(said) - datetime.now(UTC)).total_seconds()
    except (TypeError, ValueError):
        return 0.0
