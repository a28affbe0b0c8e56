"""Where a conversion writes: a local folder or any URL that fsspec opens, file by whole file.

A file is seen under its name only when all of it is there, whatever happens meanwhile. Locally it is written
under another name, brought to disk and renamed. Elsewhere it is written to this machine's temporary folder
first and then uploaded: object stores show an upload when it is complete, and in every other remote file
system it gets its name at the end.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, BinaryIO, Protocol, runtime_checkable
from uuid import uuid4

from qdet.errors import ConfigError, DataError
from qdet.storage.atomic import atomic_file
from qdet.storage.filesystem import filesystem

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from fsspec import AbstractFileSystem

_SHOWS_WHOLE_UPLOADS = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oss"}


@runtime_checkable
class Store(Protocol):
    """A folder of files by name; names may hold `/`. It can be sent to other processes and machines."""

    def __str__(self) -> str:
        """The folder as the user named it."""
        ...

    def names(self, folder: str = "") -> list[str]:
        """The files directly in the store or in a folder of it, sorted; none where there is no folder."""
        ...

    def size(self, name: str) -> int | None:
        """Bytes of a file; None where there is none."""
        ...

    def read(self, name: str) -> bytes:
        """A whole file; FileNotFoundError where there is none."""
        ...

    def opened(self, name: str) -> "AbstractContextManager[BinaryIO]":
        """Open a file for reading."""
        ...

    def file(self, name: str) -> "AbstractContextManager[BinaryIO]":
        """Open a file for writing that gets its name when the block ends well, and else never existed."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file or a folder, if it is there."""
        ...


def store_at(where: str | Path) -> Store:
    """The store at a local path or URL."""
    if "://" not in str(where):
        return LocalStore(Path(where))
    from fsspec.implementations.local import LocalFileSystem

    try:
        files, path = filesystem(str(where))
    except ValueError as error:
        raise ConfigError(f"{where} cannot be opened: {error}") from error
    if isinstance(files, LocalFileSystem):
        return LocalStore(Path(path))
    return RemoteStore(str(where).rstrip("/"), files, path)


def write(store: Store, name: str, data: bytes) -> None:
    """Write a whole small file."""
    with store.file(name) as file:
        file.write(data)


@dataclass(frozen=True)
class LocalStore:
    """A folder that this machine has mounted."""

    folder: Path

    def __str__(self) -> str:
        return str(self.folder)

    def names(self, folder: str = "") -> list[str]:
        """See `Store`."""
        here = self.folder / folder
        return sorted(entry.name for entry in here.iterdir() if entry.is_file()) if here.is_dir() else []

    def size(self, name: str) -> int | None:
        """See `Store`."""
        try:
            return (self.folder / name).stat().st_size
        except OSError:
            return None

    def read(self, name: str) -> bytes:
        """See `Store`."""
        return (self.folder / name).read_bytes()

    def opened(self, name: str) -> BinaryIO:
        """See `Store`."""
        return (self.folder / name).open("rb")

    @contextmanager
    def file(self, name: str) -> Iterator[BinaryIO]:
        """See `Store`."""
        path = self.folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"{self.folder} cannot be written: {error.strerror or error}") from error
        with atomic_file(path) as file:
            yield file

    def remove(self, name: str) -> None:
        """See `Store`."""
        path = self.folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


@dataclass(frozen=True)
class RemoteStore:
    """A folder, or a prefix of keys, in a file system of fsspec."""

    url: str
    filesystem: "AbstractFileSystem"
    root: str

    def __str__(self) -> str:
        return self.url

    def names(self, folder: str = "") -> list[str]:
        """See `Store`."""
        self.filesystem.invalidate_cache()
        try:
            entries = self.filesystem.ls(self._path(folder), detail=True)
        except FileNotFoundError:
            return []
        return sorted(str(e["name"]).rpartition("/")[2] for e in entries if e["type"] == "file")

    def size(self, name: str) -> int | None:
        """See `Store`."""
        self.filesystem.invalidate_cache()
        try:
            found = self.filesystem.info(self._path(name))
        except FileNotFoundError:
            return None
        return int(found["size"]) if found["type"] == "file" else None

    def read(self, name: str) -> bytes:
        """See `Store`."""
        return bytes(self.filesystem.cat_file(self._path(name)))  # type: ignore[arg-type] - never text

    def opened(self, name: str) -> "AbstractContextManager[BinaryIO]":
        """See `Store`."""
        return self.filesystem.open(self._path(name), "rb")  # type: ignore[return-value] - opened for bytes

    @contextmanager
    def file(self, name: str) -> Iterator[BinaryIO]:
        """See `Store`."""
        with NamedTemporaryFile(prefix="qdet-upload-") as file:
            yield file  # type: ignore[misc] - a BinaryIO in all but the name of its class
            file.flush()
            self._upload(Path(file.name), name)

    def remove(self, name: str) -> None:
        """See `Store`."""
        self.filesystem.invalidate_cache()
        if self.filesystem.exists(self._path(name)):
            self.filesystem.rm(self._path(name), recursive=True)

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}".rstrip("/")

    def _upload(self, local: Path, name: str) -> None:
        protocol = self.filesystem.protocol
        whole = _SHOWS_WHOLE_UPLOADS & set([protocol] if isinstance(protocol, str) else protocol)
        path = self._path(name)
        parent, _, last = path.rpartition("/")
        target = path if whole else f"{parent}/.{last}.tmp-{uuid4().hex[:8]}"
        try:
            if not whole:
                self.filesystem.makedirs(parent, exist_ok=True)
            self.filesystem.put_file(str(local), target)
            if not whole:
                self.filesystem.mv(target, path)
        except (OSError, NotImplementedError) as error:
            raise DataError(
                f"{self.url}/{name} cannot be written: {error or type(error).__name__}"
            ) from error
        found, sent = self.size(name), local.stat().st_size
        if found != sent:
            raise DataError(f"{self.url}/{name} has {found} bytes after an upload of {sent}; run it again")
