"""A store that lies now and then: `lying:///folder`, files of this machine behind a file system of fsspec.

When asked to, it answers a read of a checkpoint's file with a flipped bit or too few bytes, or a listing
without the newest checkpoint, as object stores, proxies and caches have done. What carries no checksum, the
run's record and its lease, is answered truly.
"""

import io
import os
import random
import re
from pathlib import Path
from typing import Any

from fsspec import AbstractFileSystem, register_implementation
from fsspec.implementations.local import LocalFileSystem

from qdet.launching.chaos.requests import Requests

LIES = "QDET_CHAOS_LIES"
"""Variable with the path of the file that asks for lies."""
SCHEME = "lying"
WRONG, CUT, STALE = KINDS = ("wrong bytes", "missing bytes", "a stale listing")
_CHECKPOINT = re.compile(r"/step_\d+(/|$)")


def install() -> None:
    """Have this process open `lying://`, if its environment names a file for requests."""
    if LIES in os.environ:
        register_implementation(SCHEME, LyingStore, clobber=True)


class LyingStore(AbstractFileSystem):
    """Files of this machine, and lies about them where `LIES` asks for some."""

    protocol = SCHEME
    cachable = False

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._files, self._requests = LocalFileSystem(auto_mkdir=True), Requests(Path(os.environ[LIES]))

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        """List a folder; without the newest checkpoint where a stale listing is asked for."""
        found: list[Any] = self._files.ls(path, detail=True)
        steps = [entry["name"] for entry in found if re.search(r"/step_\d+$", entry["name"])]
        if steps and self._requests.claim((STALE,)):
            found = [entry for entry in found if entry["name"] != max(steps)]
        return found if detail else [entry["name"] for entry in found]

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Return what is known of a file or folder."""
        return self._files.info(path)

    def modified(self, path: str) -> Any:
        """Return when a file was last written."""
        return self._files.modified(path)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Make a folder and those above it."""
        self._files.makedirs(path, exist_ok=exist_ok)

    def rm_file(self, path: str) -> None:
        """Remove a file."""
        self._files.rm_file(path)

    def rm(self, path: str, recursive: bool = False, maxdepth: int | None = None) -> None:
        """Remove a folder with what is in it."""
        self._files.rm(path, recursive=recursive, maxdepth=maxdepth)

    def mv(
        self, path1: str, path2: str, recursive: bool = False, maxdepth: int | None = None, **_: Any
    ) -> None:
        """Rename a file, over another where there is one."""
        Path(path1).replace(path2)

    def _open(self, path: str, mode: str = "rb", *_: Any, **__: Any) -> Any:
        if mode != "rb" or not _CHECKPOINT.search(path):
            return self._files.open(path, mode)
        content = Path(path).read_bytes()
        kind = self._requests.claim((WRONG, CUT)) if content else None
        return io.BytesIO(content if kind is None else falsify(content, kind, random.Random(path)))


def falsify(content: bytes, kind: str, rng: random.Random) -> bytes:
    """Return other bytes than `content`, which are not empty: a bit flipped, or cut off."""
    at = rng.randrange(len(content))
    if kind == CUT:
        return content[:at]
    return content[:at] + bytes([content[at] ^ (1 << rng.randrange(8))]) + content[at + 1 :]
