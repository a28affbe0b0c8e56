"""Fetch one file over HTTP: resumed where a connection broke, checked before it gets its final name.

    FILE.part          the bytes received so far
    FILE.part.etag     the version they belong to, if the server sends one

If the server cannot resume, or its file has changed, the transfer restarts.
"""

import hashlib
import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from data_prep.output import write_local
from qdet.errors import DataError

_CHUNK = 2**20
_TOO_MANY_REQUESTS, _RANGE_NOT_SATISFIABLE, _SERVER_ERROR = 429, 416, 500


@dataclass(frozen=True, kw_only=True)
class Expected:
    """Published size and checksum of a file."""

    size: int | None = None
    """Bytes."""
    md5: str | None = None


def fetch(
    url: str,
    file: Path,
    expected: Expected,
    *,
    advance: Callable[[float], None] = lambda _: None,
    attempts: int = 8,
    timeout: float = 60.0,
    wait: float = 1.0,
) -> Expected:
    """Fetch `url` to `file`; return its size and md5.

    Args:
        url: Source.
        file: Destination.
        expected: Required size and checksum.
        advance: Called with the bytes received, negative when a part is discarded.
        attempts: Attempts in a row without progress.
        timeout: Seconds without an answer after which a connection counts as broken.
        wait: Seconds before the second attempt, doubled before each further one, up to 60.

    Raises:
        DataError: The server refuses, does not answer, or sends another file than expected.
    """
    part = _Part(file)
    advance(part.size)
    failed = 0
    while True:
        before = part.size
        try:
            _receive(url, part, advance, timeout)
            break
        except _RefusedError as error:
            raise DataError(f"{url}: {error}") from error
        except (OSError, http.client.HTTPException) as error:
            failed = 1 if part.size > before else failed + 1
            if failed >= attempts:
                raise DataError(_describe_failure(url, error, failed, part.size)) from error
            time.sleep(min(60.0, wait * 2 ** (failed - 1)))
    return _finish(url, file, part, expected)


def check_file(file: Path, expected: Expected) -> Expected:
    """Return size and MD5 of a file; DataError if they differ from `expected`."""
    with file.open("rb") as content:
        found = Expected(size=file.stat().st_size, md5=hashlib.file_digest(content, "md5").hexdigest())
    for name in ("size", "md5"):
        wanted, got = getattr(expected, name), getattr(found, name)
        if wanted is not None and wanted != got:
            raise DataError(
                f"{file} has {name} {got}, expected {wanted}; remove it and run the command again"
            )
    return found


def _describe_failure(url: str, error: Exception, times: int, kept: int) -> str:
    return (
        f"{url}: {str(error) or type(error).__name__}, {times} times in a row; {kept} bytes are kept: run "
        "the same command again to resume"
    )


class _RefusedError(Exception):
    """The server refuses for good; a retry cannot help."""


class _TruncatedError(OSError):
    """A body ended before its Content-Length."""


class _Part:
    """A partially fetched file."""

    def __init__(self, file: Path) -> None:
        self.file = file.with_name(file.name + ".part")
        self._etag = file.with_name(file.name + ".part.etag")

    @property
    def size(self) -> int:
        return self.file.stat().st_size if self.file.is_file() else 0

    @property
    def etag(self) -> str:
        return self._etag.read_text() if self._etag.is_file() else ""

    def restart(self, etag: str) -> None:
        self.file.unlink(missing_ok=True)
        write_local(self._etag, etag.encode())

    def remove_etag(self) -> None:
        self._etag.unlink(missing_ok=True)


def _receive(url: str, part: _Part, advance: Callable[[float], None], timeout: float) -> None:
    """Append the missing bytes to `part`; return when it is complete."""
    have = part.size
    request = urllib.request.Request(url, headers={"User-Agent": "qdet"})
    if have:
        request.add_header("Range", f"bytes={have}-")
        if part.etag.startswith('"'):
            request.add_header("If-Range", part.etag)  # the server sends the whole file if it has changed
    try:
        answer = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code == _RANGE_NOT_SATISFIABLE and have:
            if error.headers.get("Content-Range", "") == f"bytes */{have}":
                return  # the part is complete
            _restart(part, "", advance)
            raise
        if error.code >= _SERVER_ERROR or error.code == _TOO_MANY_REQUESTS:
            raise
        raise _RefusedError(f"the server answers {error.code} {error.reason}") from error
    with answer:
        begin, end = _parse_range(answer, have)
        if begin not in (0, have):
            raise _RefusedError(f"asked for bytes from {have}, the server sends bytes from {begin}")
        if not begin:
            _restart(part, answer.headers.get("ETag") or "", advance)
        _append(answer, part, advance)
    if end is not None and part.size < end:
        raise _TruncatedError(f"the connection ended after {part.size} of {end} bytes")


def _parse_range(answer: http.client.HTTPResponse, have: int) -> tuple[int, int | None]:
    """Return the body's offset in the file, and the file's size if the server sends it."""
    if answer.status != http.HTTPStatus.PARTIAL_CONTENT:
        length = answer.headers.get("Content-Length")
        return 0, None if length is None else int(length)
    span, _, total = answer.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
    begin = span.partition("-")[0]
    return int(begin) if begin.isdigit() else -1, int(total) if total.isdigit() else None


def _restart(part: _Part, etag: str, advance: Callable[[float], None]) -> None:
    advance(-part.size)
    part.restart(etag)


def _append(answer: http.client.HTTPResponse, part: _Part, advance: Callable[[float], None]) -> None:
    with part.file.open("ab") as file:
        while chunk := answer.read1(_CHUNK):
            file.write(chunk)
            advance(len(chunk))


def _finish(url: str, file: Path, part: _Part, expected: Expected) -> Expected:
    try:
        found = check_file(part.file, expected)
    except DataError as error:
        part.file.unlink()
        part.remove_etag()
        raise DataError(
            f"{url}: the file received is not the expected one and was removed; run the command again "
            f"({error})"
        ) from error
    part.file.replace(file)
    part.remove_etag()
    return found
