"""Bytes of shards by offset, each checked against its recorded checksum.

Threads share one reader: `os.pread` moves no file position. Files stay open, up to a limit.
"""

import os
import threading
import zlib
from collections.abc import Sequence
from pathlib import Path

from qdet.errors import DataError

_KEPT_OPEN = 256


class ShardFiles:
    """Read-only local files, opened when first needed and closed with this object."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(paths)
        self._open: dict[int, int] = {}
        self._lock = threading.Lock()

    def read(self, shard: int, offset: int, length: int) -> bytes:
        """Return `length` bytes of file number `shard`."""
        path = self.paths[shard]
        try:
            descriptor, keep = self._descriptor(shard)
            try:
                data = os.pread(descriptor, length, offset)
            finally:
                if not keep:
                    os.close(descriptor)
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
        if len(data) != length:
            raise DataError(
                f"{path} ends at byte {offset + len(data)}, within a sample: it is truncated; "
                "copy it again or convert the dataset again"
            )
        return data

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


def check_crc32(data: bytes, expected: int, *, name: str) -> None:
    """Raise DataError unless `data` has the checksum that the index recorded."""
    if zlib.crc32(data) != expected:
        raise DataError(
            f"{name} is not what was written: its checksum differs; "
            "copy the shard again or convert the dataset again"
        )
