"""A folder on this machine or behind a URL, with the few things that checkpoints and runs do to it."""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, cast

from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from qdet.errors import CheckpointError
from qdet.masking import mask
from qdet.storage.filesystem import filesystem


@dataclass(frozen=True)
class Folder:
    """A place for files. It need not exist before something is written to it."""

    url: str
    """As the user named it."""
    files: AbstractFileSystem
    path: str
    """Where it is in `files`."""

    @classmethod
    def open(cls, url: str | Path) -> "Folder":
        """Return the folder at a path or URL.

        Raises:
            CheckpointError: Nothing installed here opens such a URL.
        """
        url = str(url)
        if "://" not in url:
            return cls(url.rstrip("/"), LocalFileSystem(), str(Path(url).absolute()))
        try:
            files, path = filesystem(url)
        except ValueError as error:
            raise CheckpointError(f"{url} cannot be opened: {error}") from error
        return cls(url.rstrip("/"), files, path)

    def __str__(self) -> str:
        return mask(self.url)

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.path.rsplit("/", 1)[-1]

    @property
    def local(self) -> Path | None:
        """Its path where it is on this machine."""
        return Path(self.path) if isinstance(self.files, LocalFileSystem) else None

    def child(self, name: str) -> "Folder":
        """Return the folder `name` inside this one."""
        return replace(self, url=f"{self.url}/{name}", path=f"{self.path}/{name}")

    def names(self) -> list[str]:
        """Names of the files and folders right inside, sorted; none where there is no folder."""
        self.files.invalidate_cache(self.path)
        with suppress(FileNotFoundError, NotADirectoryError):
            found = {str(path).rstrip("/") for path in self.files.ls(self.path, detail=False)}
            # Object stores list the empty object that stands for a folder as a thing inside it.
            return sorted(
                path.rsplit("/", 1)[-1] for path in found if path.strip("/") != self.path.strip("/")
            )
        return []

    def size(self, name: str) -> int | None:
        """Bytes of the file `name`; None where there is none."""
        self.files.invalidate_cache(self.path)
        with suppress(FileNotFoundError, NotADirectoryError):
            info = self.files.info(f"{self.path}/{name}")
            return info["size"] if info["type"] == "file" else None
        return None

    def modified(self, name: str) -> datetime:
        """When the file `name` was last written."""
        return self.files.modified(f"{self.path}/{name}")

    def read(self, name: str) -> bytes:
        """Return a whole small file.

        Raises:
            FileNotFoundError: It is not there.
        """
        return cast(bytes, self.files.cat_file(f"{self.path}/{name}"))

    @contextmanager
    def reading(self, name: str) -> Iterator[BinaryIO]:
        """Open a large file."""
        with self.files.open(f"{self.path}/{name}", "rb") as file:
            yield cast(BinaryIO, file)

    @contextmanager
    def writing(self, name: str) -> Iterator[BinaryIO]:
        """Open a new large file; after the block it is on the disk, not only in its cache."""
        self.files.makedirs(self.path, exist_ok=True)
        with self.files.open(f"{self.path}/{name}", "wb") as file:
            yield cast(BinaryIO, file)
            file.flush()
            if self.local is not None:
                os.fsync(file.fileno())

    def put(self, name: str, content: bytes) -> None:
        """Write a small file as one event: whoever looks finds all of it, or what was there before."""
        self.files.makedirs(self.path, exist_ok=True)
        if self.local is None:  # an object appears when its upload is complete
            self.files.pipe_file(f"{self.path}/{name}", content)
            return
        arriving = f".{name}.{os.getpid()}.{time.monotonic_ns()}"
        with self.writing(arriving) as file:
            file.write(content)
        (self.local / arriving).replace(self.local / name)
        _sync_folder(self.local)

    def remove(self, name: str) -> None:
        """Remove the file `name`, if it is there."""
        with suppress(FileNotFoundError):
            self.files.rm_file(f"{self.path}/{name}")

    def remove_all(self) -> None:
        """Remove the folder and everything in it, its manifest first, so that no half of it ever counts."""
        self.remove("manifest.json")
        with suppress(FileNotFoundError):
            if self.local is not None:
                shutil.rmtree(self.local)
            else:
                self.files.rm(self.path, recursive=True)


def _sync_folder(folder: Path) -> None:
    """Bring a rename to the disk, where the system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
