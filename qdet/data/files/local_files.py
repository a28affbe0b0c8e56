"""Bytes of shards on this machine, by offset.

Threads share one reader: `os.pread` moves no file position. Files stay open, up to a limit.
"""

import os
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

from qdet.errors import DataError

_KEPT_OPEN = 256


class ShardFiles:
    """Read-only local files, opened when first needed and closed with this object."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(paths)
        self.names = tuple(map(str, self.paths))
        self._open: dict[int, int] = {}
        self._lock = threading.Lock()

    @property
    def cache_capacity(self) -> None:
        """None: local files are not copied."""

    def read(self, shard: int, offset: int, length: int) -> bytes:
        """Return `length` bytes of file number `shard`."""
        try:
            descriptor, keep = self._descriptor(shard)
        except OSError as error:
            raise DataError(f"{self.paths[shard]} cannot be read: {error.strerror or error}") from error
        try:
            return pread(descriptor, length, offset, name=self.names[shard])
        finally:
            if not keep:
                os.close(descriptor)

    def descriptor(self, shard: int) -> int:
        """File descriptor of a whole shard, to be closed by the caller."""
        try:
            return os.open(self.paths[shard], os.O_RDONLY)
        except OSError as error:
            raise DataError(f"{self.paths[shard]} cannot be read: {error.strerror or error}") from error

    def will_read(self, shards: Iterable[int]) -> None:
        """Nothing to prepare: the files are here."""

    def forget(self, shard: int) -> bool:
        """False: there is no other copy to read."""
        return False

    def close(self) -> None:
        """Close every file."""
        with self._lock:
            while self._open:
                os.close(self._open.popitem()[1])

    def __del__(self) -> None:
        if hasattr(self, "_lock"):
            self.close()

    def _descriptor(self, shard: int) -> tuple[int, bool]:
        with self._lock:
            if shard in self._open:
                return self._open[shard], True
            descriptor = os.open(self.paths[shard], os.O_RDONLY)
            keep = len(self._open) < _KEPT_OPEN
            if keep:
                self._open[shard] = descriptor
            return descriptor, keep


def pread(descriptor: int, length: int, offset: int, *, name: str) -> bytes:
    """Read `length` bytes of the file `name`; DataError where it has less."""
    try:
        data = os.pread(descriptor, length, offset)
    except OSError as error:
        raise DataError(f"{name} cannot be read: {error.strerror or error}") from error
    if len(data) != length:
        raise DataError(
            f"{name} ends at byte {offset + len(data)}, within a sample: it is truncated; "
            "copy it again or convert the dataset again"
        )
    return data
