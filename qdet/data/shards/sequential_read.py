"""One shard read once from its front to its back, and not kept: its files, checked as they pass by.

The rules are those of the scan (`qdet.data.shards.scan_shard`). That a shard is cut off shows at its end,
when its samples may already have been trained on; the error stops the run.
"""

import hashlib
import socket
import tarfile
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from qdet.data.files.download import explain_failure, open_sequential
from qdet.data.files.pipes import output_of
from qdet.data.shards.manifest import Listed
from qdet.data.shards.scan_shard import IMAGES, META, check_member, key_and_kind
from qdet.errors import DataError
from qdet.storage.urls import is_pipe

_CHUNK = 2**18


def files_of(shard: Listed, allowed: Sequence[str]) -> Generator[dict[str, Any], None, None]:
    """Yield images and JSON files of a shard as webdataset's `group_by_keys` takes them.

    Args:
        shard: What to read.
        allowed: Commands that may be run for it; see `qdet.data.files.pipes`.

    Raises:
        DataError: Shard and member at which it is damaged, or is not what the manifest lists.
    """
    with _open(shard.name, allowed) as source:
        passing = _Passing(source)
        with explain_failure(shard.name):
            yield from _files(passing, shard.name)
        if shard.size not in (None, passing.length):
            raise DataError(
                f"{shard.name} has {passing.length} bytes where its manifest says {shard.size}; copy it again"
            )
        if shard.sha256 not in (None, passing.hashing.hexdigest()):
            raise DataError(
                f"{shard.name} is not what its manifest says: its sha256 differs on host "
                f"{socket.gethostname()}; copy it again"
            )


class _Passing:
    """Counts what is read, and remembers the last two chunks of it."""

    def __init__(self, source: Any) -> None:
        self._source = source
        self.length, self.hashing = 0, hashlib.sha256()
        self._last: deque[bytes] = deque(maxlen=2)

    def read(self, size: int) -> bytes:
        """Return `size` bytes, and less only at the end."""
        parts = []
        while size and (part := self._source.read(size)):
            parts.append(part)
            size -= len(part)
        chunk = parts[0] if len(parts) == 1 else b"".join(parts)
        self.length += len(chunk)
        self.hashing.update(chunk)
        self._last.append(chunk)
        return chunk

    def from_byte(self, start: int) -> Iterator[bytes]:
        """Yield what was read from byte `start` on, in the last two chunks, and all that is left."""
        yield b"".join(self._last)[start - self.length :]
        while chunk := self.read(_CHUNK):
            yield chunk


def _files(source: _Passing, name: str) -> Iterator[dict[str, Any]]:
    seen: dict[str, set[str]] = {}
    now, last = "", "its first member"
    try:
        with tarfile.open(fileobj=source, mode="r|", bufsize=_CHUNK) as tar:  # type: ignore[call-overload]
            for member in tar:
                tar.members = []  # a tar of any length, in memory of one member
                if member.isdir() or META.match(member.name):
                    continue
                check_member(member, name)
                key, kind = key_and_kind(member, name)
                if (key != now and key in seen) or kind in seen.setdefault(key, set()):
                    raise DataError(
                        f"{name}, sample {key}: comes more than once; keep the files of a sample together "
                        "and its name its own"
                    )
                seen[key].add(kind)
                now = key
                if kind in IMAGES or kind == "json":
                    yield {"fname": member.name, "data": _content(tar, member), "__url__": name}
                last = f"member {member.name}"
            end = tar.offset
    except (tarfile.TarError, EOFError) as error:
        raise DataError(
            f"{name} is damaged at or after {last} ({error}), or is no uncompressed tar; copy it again"
        ) from error
    _check_end(source, end, name, last)


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    data = b"" if file is None else file.read()
    if len(data) != member.size:
        raise tarfile.ReadError(f"member {member.name} ends after {len(data)} of {member.size} bytes")
    return data


def _check_end(source: _Passing, end: int, name: str, last: str) -> None:
    """Raise DataError unless a tar ends with two blocks of zeros, and zeros alone: tarfile stops at less."""
    zeros = 0
    for chunk in source.from_byte(end):
        if chunk.strip(b"\0"):
            zeros = -1
            break
        zeros += len(chunk)
    if zeros < 2 * tarfile.BLOCKSIZE:
        raise DataError(f"{name} is truncated or damaged after {last}, at byte {end}; copy it again")


@contextmanager
def _open(name: str, allowed: Sequence[str]) -> Iterator[Any]:
    if is_pipe(name):
        with output_of(name, allowed) as source:
            yield source
    else:
        with open_sequential(name) as source:
            yield source
