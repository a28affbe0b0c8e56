"""Shards from behind a URL on this machine's disk: fetched once for all its processes, within a limit.

    <folder>/shards/NAME.tar         a whole shard, of the right size and checksum; NAME for its URL
    <folder>/shards/NAME.UID.part    one that is being fetched, already as long as it will become
    <folder>/shards/NAME.lock        held by the process that fetches it
    <folder>/shards/NAME.want        marked by each process whose plan reads it soon
    <folder>/shards/room.lock        held by the process that makes room

There is no process in charge and nothing to repair after a kill: locks and marks vanish with their owners.
When space is needed, unmarked shards are evicted first, the least recently read before the others. Fetching
ahead never evicts a marked shard; reading a sample that is needed now may.

Several users share a folder that all of them may write. What they fetch has its rights; where only owners may
remove files (the sticky bit), each evicts what is its own.
"""

import hashlib
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from qdet.data.files.download import download
from qdet.data.files.shared_folders import make_shared
from qdet.errors import ConfigError
from qdet.storage.process_locks import is_held, locked, mark, share

_POLL = 0.05


@dataclass(frozen=True)
class RemoteShard:
    """A shard behind a URL, and what it must be."""

    url: str
    size: int
    sha256: str | None
    """None before the first scan of a dataset that comes without checksums."""

    @cached_property
    def name(self) -> str:
        """Name in the cache: of the whole URL, so that equal file names of two datasets stay apart."""
        return hashlib.sha256(self.url.encode()).hexdigest()[:32]


class NodeCache:
    """Shards of any number of datasets, together at most `limit` bytes."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.limit = limit
        self._shards = folder / "shards"
        make_shared(self._shards, cache=folder)

    def open(self, shard: RemoteShard) -> int:
        """Return a file descriptor of the shard, fetched if it is not here; eviction leaves it readable."""
        with suppress(FileNotFoundError):
            return self._open(shard)
        while (descriptor := self._fetch(shard, needed=True)) is None:
            time.sleep(_POLL)
        return descriptor

    def fetch_ahead(self, shard: RemoteShard) -> bool:
        """Fetch the shard unless it is here; False if another process fetches it or space is short."""
        descriptor = self._fetch(shard, needed=False)
        if descriptor is None:
            return False
        os.close(descriptor)
        return True

    def want(self, shard: RemoteShard) -> int:
        """Mark the shard as read soon; closing the returned descriptor removes the mark."""
        return mark(self._file(shard, "want"))

    def forget(self, shard: RemoteShard) -> None:
        """Throw the shard away: what is here is not what was fetched."""
        _evict(self._file(shard, "tar"))

    def _file(self, shard: RemoteShard, suffix: str) -> Path:
        return self._shards / f"{shard.name}.{suffix}"

    def _open(self, shard: RemoteShard) -> int:
        path = self._file(shard, "tar")
        descriptor = os.open(path, os.O_RDONLY)
        if os.fstat(descriptor).st_size == shard.size:
            with suppress(PermissionError):  # of another user: read all the same
                os.utime(path)
            return descriptor
        os.close(descriptor)
        path.unlink(missing_ok=True)
        raise FileNotFoundError(path)

    def _fetch(self, shard: RemoteShard, *, needed: bool) -> int | None:
        with locked(self._file(shard, "lock"), wait=needed) as mine:
            if not mine:
                return None
            with suppress(FileNotFoundError):
                return self._open(shard)
            part = self._file(shard, f"{os.geteuid()}.part")
            if not self._reserve(shard, part, needed=needed):
                return None
            try:
                download(shard.url, part, size=shard.size, sha256=shard.sha256)
                descriptor = os.open(part, os.O_RDONLY)
                with locked(self._shards / "room.lock"):  # no process counts while names change
                    part.replace(self._file(shard, "tar"))
            finally:
                part.unlink(missing_ok=True)
            return descriptor

    def _reserve(self, shard: RemoteShard, part: Path, *, needed: bool) -> bool:
        """Make room and take it, by a file that is as long as the shard before its bytes arrive."""
        if shard.size > self.limit:
            raise ConfigError(
                f"--data.cache-gb {self.limit / 1e9:g} is less than one shard: {shard.url} has "
                f"{shard.size / 1e9:.3g} GB; raise it"
            )
        with locked(self._shards / "room.lock"):
            part.unlink(missing_ok=True)
            if not self._make_room(shard.size, even_wanted=needed):
                return False
            with part.open("wb") as file:
                share(part)
                file.truncate(shard.size)
            return True

    def _make_room(self, size: int, *, even_wanted: bool) -> bool:
        held: list[tuple[bool, float, int, Path]] = []
        total = size
        for path in self._shards.iterdir():
            if path.suffix not in (".tar", ".part"):
                continue
            lock = self._shards / f"{path.name.partition('.')[0]}.lock"
            if path.suffix == ".part" and not is_held(lock) and _evict(path):  # of a process that was killed
                continue
            with suppress(FileNotFoundError):  # finished or thrown away in this moment
                found = path.stat()
                total += found.st_size
                if path.suffix == ".tar":
                    held.append((is_held(path.with_suffix(".want")), found.st_mtime, found.st_size, path))
        stuck = 0
        for wanted, _, length, path in sorted(held):
            if total <= self.limit or (wanted and not even_wanted):
                break
            if _evict(path):
                total -= length
            else:
                stuck += length
        if even_wanted and total > self.limit and stuck:
            raise ConfigError(
                f"--data.cache {self._shards.parent} is full, and {stuck / 1e9:.3g} GB of it are other "
                "users', who alone may remove them: raise --data.cache-gb, or name another folder"
            )
        return total <= self.limit


def _evict(path: Path) -> bool:
    """Remove a file if this user may; return whether it is gone."""
    try:
        path.unlink(missing_ok=True)
    except PermissionError:
        return False
    return True
