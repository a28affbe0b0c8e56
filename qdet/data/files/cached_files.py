"""Shards of one dataset read through the node's cache, and fetched into it before their samples are needed.

Each read opens the file anew: a shard that another process evicts in between is fetched again, and the
disk space of one that is not read any more is free at once.
"""

import os
import threading
import time
from collections.abc import Iterable, Sequence
from queue import SimpleQueue

from qdet.data.files.local_files import pread
from qdet.data.files.node_cache import NodeCache, RemoteShard
from qdet.errors import DataError, QdetError

FETCHERS = 4
"""Shards that a process fetches at the same time."""
AHEAD = 256
"""Shards that a process marks as wanted at most: every mark is an open file."""
_POLL = 0.2


class CachedShards:
    """Reads like `qdet.data.files.local_files.ShardFiles`, from any thread."""

    def __init__(self, shards: Sequence[RemoteShard], cache: NodeCache) -> None:
        self.names = tuple(shard.url for shard in shards)
        self._shards, self._cache = tuple(shards), cache
        self._ahead = _Ahead(self._shards, cache)

    @property
    def cache_capacity(self) -> int:
        """Most bytes that the cache may hold."""
        return self._cache.limit

    def read(self, shard: int, offset: int, length: int) -> bytes:
        """Return `length` bytes of shard number `shard`."""
        descriptor = self.descriptor(shard)
        try:
            return pread(descriptor, length, offset, name=self.names[shard])
        finally:
            os.close(descriptor)

    def descriptor(self, shard: int) -> int:
        """File descriptor of the whole shard, to be closed by the caller."""
        try:
            return self._cache.open(self._shards[shard])
        except OSError as error:
            raise DataError(
                f"{self.names[shard]} cannot be kept in --data.cache: {error.strerror or error}; "
                "see that the folder can be written and has room"
            ) from error

    def will_read(self, shards: Iterable[int]) -> None:
        """Fetch the first of these, in about this order; release those that only earlier calls named."""
        self._ahead.want(list(dict.fromkeys(shards))[:AHEAD])

    def forget(self, shard: int) -> bool:
        """Throw away the copy of a shard; True, for reading it again may help."""
        self._cache.forget(self._shards[shard])
        return True

    def close(self) -> None:
        """Stop fetching ahead and release every shard."""
        self._ahead.close()

    def __del__(self) -> None:
        if hasattr(self, "_ahead"):
            self.close()


class _Ahead:
    """Threads that fetch what is wanted, and do not keep the object alive that started them."""

    def __init__(self, shards: Sequence[RemoteShard], cache: NodeCache) -> None:
        self._shards, self._cache = shards, cache
        self._marks: dict[int, int] = {}
        self._lock = threading.Lock()
        self._queue: SimpleQueue[int | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []

    def want(self, shards: Sequence[int]) -> None:
        with self._lock:
            self._release(self._marks.keys() - set(shards))
            new = [shard for shard in shards if shard not in self._marks]
            for shard in new:
                self._marks[shard] = self._cache.want(self._shards[shard])
            if new and not self._threads:
                # Daemons: a program that ends does not wait for shards that will not be read.
                self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(FETCHERS)]
                for thread in self._threads:
                    thread.start()
        for shard in new:
            self._queue.put(shard)

    def close(self) -> None:
        with self._lock:
            self._release(set(self._marks))
            for _ in self._threads:
                self._queue.put(None)
            self._threads = []

    def _release(self, shards: set[int]) -> None:
        for shard in shards:
            os.close(self._marks.pop(shard))

    def _work(self) -> None:
        while (shard := self._queue.get()) is not None:
            try:
                while shard in self._marks and not self._cache.fetch_ahead(self._shards[shard]):
                    time.sleep(_POLL)
            except (OSError, QdetError):
                continue  # the reader of the shard meets the same error and raises it
