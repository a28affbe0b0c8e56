"""JSON as users' tools leave it: gzipped, with a byte order mark, in UTF-16, or something else altogether.

What can be read is read; of anything else the error names the file, what it is, and the place.
"""

import gzip
import io
import json
import zlib
from typing import Any

from qdet.errors import DataError
from qdet.storage.file_kinds import misplaced_kind

MOST_BYTES = 4 * 2**30
"""Size of the largest JSON that a gzipped file may hold."""
_GZIP = b"\x1f\x8b"
NESTED = "is nested too deeply for annotations"


def plain_json(data: bytes, *, where: str, most: int = MOST_BYTES) -> bytes:
    """Return JSON without compression and byte order mark, in UTF-8 if it came in UTF-16 or UTF-32.

    UTF-8 is not checked here: a parser does that as it goes, and `check_utf8` says what is wrong.

    Args:
        data: Bytes of a file.
        where: Names the file in errors.
        most: Bytes of the largest file that is unpacked.

    Raises:
        DataError: They are no JSON but a known other kind of file, or are damaged.
    """
    if data.startswith(_GZIP):
        data = _unpack(data, where, most)
    if (kind := misplaced_kind(data)) is not None:
        raise DataError(f"{where} is {kind}")
    encoding = json.detect_encoding(data[:4]) if data[:4] else "utf-8"
    if encoding == "utf-8-sig":
        return data[3:]
    if encoding == "utf-8":
        return data
    try:
        return data.decode(encoding).encode()
    except UnicodeError as error:
        raise DataError(f"{where} begins as {encoding.upper()} text and is not: {error}") from error


def check_utf8(data: bytes, *, where: str) -> None:
    """Raise DataError naming the first byte that is not UTF-8, if there is one."""
    try:
        data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{where} is not UTF-8: byte 0x{data[error.start]:02x} at position {error.start} (line {line}); "
            "save it as UTF-8, for example by: iconv -f LATIN1 -t UTF-8"
        ) from error


def load_json(data: bytes, *, where: str) -> Any:
    """Parse the JSON of a file.

    Raises:
        DataError: It is none; the message begins with `where` and says what it is or where it goes wrong.
    """
    text = plain_json(data, where=where)
    check_utf8(text, where=where)
    try:
        return json.loads(text)
    except RecursionError as error:
        raise DataError(f"{where} {NESTED}") from error
    except ValueError as error:
        raise DataError(f"{where} is not JSON: {error}") from error


def _unpack(data: bytes, where: str, most: int) -> bytes:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            unpacked = file.read(most + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{where} is gzipped and damaged ({error}); copy it again") from error
    if len(unpacked) > most:
        raise DataError(f"{where} unpacks to more than {most:,} bytes, too many for annotations")
    return unpacked
