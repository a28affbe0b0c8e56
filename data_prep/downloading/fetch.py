"""One file over HTTP: resumed where a connection broke, checked before it gets its name.

    FILE.part          what is there so far
    FILE.part.etag     which version of the file that is, where the server says so

A server that cannot resume, or whose file changed meanwhile, is read again from the start.
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
    """What is known of a file before it is fetched."""

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
        url: Where it is.
        file: Where it goes.
        expected: Size and checksum that it must have.
        advance: Told how many bytes more are there; less than none where a part was thrown away.
        attempts: How often to try in a row without a byte more.
        timeout: Seconds without an answer after which a connection counts as broken.
        wait: Seconds before the second attempt; twice as many before each one after it.

    Raises:
        DataError: The server refuses, stays away, or has another file than expected.
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
                raise DataError(_gave_up(url, error, failed, part.size)) from error
            time.sleep(min(60.0, wait * 2 ** (failed - 1)))
    return _finish(url, file, part, expected)


def compared(file: Path, expected: Expected) -> Expected:
    """Return size and md5 of a file; DataError if another size or md5 is expected."""
    with file.open("rb") as content:
        found = Expected(size=file.stat().st_size, md5=hashlib.file_digest(content, "md5").hexdigest())
    for name in ("size", "md5"):
        wanted, got = getattr(expected, name), getattr(found, name)
        if wanted is not None and wanted != got:
            raise DataError(
                f"{file} has {name} {got}, expected is {wanted}; remove it and run the command again"
            )
    return found


def _gave_up(url: str, error: Exception, times: int, kept: int) -> str:
    return (
        f"{url}: {str(error) or type(error).__name__}, {times} times in a row; {kept} bytes are kept, run "
        "the same command again to go on"
    )


class _RefusedError(Exception):
    """The server answers, and will not answer otherwise next time."""


class _CutError(OSError):
    """A body ended before its announced length."""


class _Part:
    """The beginning of a file that is still being fetched."""

    def __init__(self, file: Path) -> None:
        self.file = file.with_name(file.name + ".part")
        self._etag = file.with_name(file.name + ".part.etag")

    @property
    def size(self) -> int:
        return self.file.stat().st_size if self.file.is_file() else 0

    @property
    def etag(self) -> str:
        return self._etag.read_text() if self._etag.is_file() else ""

    def begin(self, etag: str) -> None:
        self.file.unlink(missing_ok=True)
        write_local(self._etag, etag.encode())

    def remove_note(self) -> None:
        self._etag.unlink(missing_ok=True)


def _receive(url: str, part: _Part, advance: Callable[[float], None], timeout: float) -> None:
    """Append what is missing to `part`; return when the server has no more."""
    have = part.size
    request = urllib.request.Request(url, headers={"User-Agent": "qdet"})
    if have:
        request.add_header("Range", f"bytes={have}-")
        if part.etag.startswith('"'):
            request.add_header("If-Range", part.etag)  # the whole file, should it be another one now
    try:
        answer = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code == _RANGE_NOT_SATISFIABLE and have:
            if error.headers.get("Content-Range", "") == f"bytes */{have}":
                return  # all of it was there
            _begin_again(part, "", advance)
            raise
        if error.code >= _SERVER_ERROR or error.code == _TOO_MANY_REQUESTS:
            raise
        raise _RefusedError(f"the server answers {error.code} {error.reason}") from error
    with answer:
        begin, end = _range_of(answer, have)
        if begin not in (0, have):
            raise _RefusedError(f"asked for bytes from {have}, the server sends them from {begin}")
        if not begin:
            _begin_again(part, answer.headers.get("ETag") or "", advance)
        _append(answer, part, advance)
    if end is not None and part.size < end:
        raise _CutError(f"the connection ended after {part.size} of {end} bytes")


def _range_of(answer: http.client.HTTPResponse, have: int) -> tuple[int, int | None]:
    """Where the body begins in the file, and where the file ends, if the server says so."""
    if answer.status != http.HTTPStatus.PARTIAL_CONTENT:
        length = answer.headers.get("Content-Length")
        return 0, None if length is None else int(length)
    span, _, total = answer.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
    begin = span.partition("-")[0]
    return int(begin) if begin.isdigit() else -1, int(total) if total.isdigit() else None


def _begin_again(part: _Part, etag: str, advance: Callable[[float], None]) -> None:
    advance(-part.size)
    part.begin(etag)


def _append(answer: http.client.HTTPResponse, part: _Part, advance: Callable[[float], None]) -> None:
    with part.file.open("ab") as file:
        while chunk := answer.read1(_CHUNK):
            file.write(chunk)
            advance(len(chunk))


def _finish(url: str, file: Path, part: _Part, expected: Expected) -> Expected:
    try:
        found = compared(part.file, expected)
    except DataError as error:
        part.file.unlink()
        part.remove_note()
        raise DataError(
            f"{url}: what came is another file than expected and was removed; run the command again ({error})"
        ) from error
    part.file.replace(file)
    part.remove_note()
    return found
