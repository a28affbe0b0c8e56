"""A folder on this machine or behind a URL: one way for checkpoints, runs, datasets and conversions.

It can be pickled and used in other processes and on other machines. Reading from behind a URL is retried.
Errors are the OSErrors of this machine, or StorageErrors, which are OSErrors too; each part of qdet turns
them into its own in one place.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import BinaryIO, TypeVar
from uuid import uuid4

from qdet.errors import StorageError
from qdet.masking import mask
from qdet.storage.atomic import sync_folder
from qdet.storage.filesystem import filesystem
from qdet.storage.local import LocalFiles
from qdet.storage.network import Readable, ResumingReader, retry
from qdet.storage.remote import RemoteFiles

T = TypeVar("T")
AT_ONCE = 64
"""Requests for small files that are made at the same time."""
CLAIM = ".claim-"
"""Beginning of the empty file that claims a folder behind a URL."""


@dataclass(frozen=True)
class Folder:
    """A place for files by name. It need not exist before something is written; names may hold `/`."""

    url: str = field(compare=False)
    """As the user named it."""
    files: LocalFiles | RemoteFiles
    path: str
    """Where it is in `files`."""

    @classmethod
    def open(cls, where: str | Path) -> "Folder":
        """Return the folder at a path or URL.

        Raises:
            StorageError: Nothing installed here opens such a URL.
        """
        url = str(where)
        name = url.rstrip("/") or "/"
        if "://" not in url:
            return cls(name, LocalFiles(), str(Path(url).absolute()))
        from fsspec.implementations.local import LocalFileSystem

        try:
            files, path = filesystem(url)
        except ValueError as error:
            raise StorageError(f"{url} cannot be opened: {error}") from error
        if isinstance(files, LocalFileSystem):
            return cls(name, LocalFiles(), path or "/")
        return cls(name, RemoteFiles(files), path)

    @classmethod
    def holding(cls, file: str | Path) -> "tuple[Folder, str]":
        """Return the folder of the file at a path or URL, and its name in it; raises what `open` does."""
        if "://" not in str(file):
            return cls.open(Path(file).parent), Path(file).name
        address, mark, query = str(file).partition("?")
        parent, _, name = address.rpartition("/")
        return cls.open(parent + mark + query), name

    def __str__(self) -> str:
        return mask(self.url)

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.path.rpartition("/")[2]

    @property
    def local(self) -> Path | None:
        """Its path where it is on this machine."""
        return Path(self.path) if isinstance(self.files, LocalFiles) else None

    def child(self, name: str) -> "Folder":
        """Return the folder `name` inside this one."""
        return replace(self, url=self._url(name), path=self._at(name))

    def names(self, inside: str = "") -> list[str]:
        """Names of the files right in the folder, or `inside` one of it, sorted; none without a folder."""
        return self._ask(inside, partial(self.files.names, folders=False))

    def folders(self) -> list[str]:
        """Names of the folders right in the folder, sorted."""
        return self._ask("", partial(self.files.names, folders=True))

    def size(self, name: str) -> int | None:
        """Bytes of the file `name`; None where there is none."""
        return self._ask(name, self.files.size)

    def sizes(self) -> dict[str, int]:
        """Bytes of the files right in the folder, by name: one question, not one for every file."""
        return self._ask("", self.files.sizes)

    def modified(self, name: str) -> datetime:
        """When the file `name` was last written."""
        return self._ask(name, self.files.modified)

    def read(self, name: str) -> bytes:
        """Return a whole small file.

        Raises:
            FileNotFoundError: It is not there.
        """
        return self._ask(name, self.files.read)

    def read_each(self, names: Sequence[str]) -> list[bytes]:
        """Return many small files, read at the same time; raises what `read` does."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(self.read, names))

    def reader(self, name: str, *, resume: bool = True) -> AbstractContextManager[Readable]:
        """Open a large file to be read from front to back; raises what `read` does, here or while reading.

        Without `resume` a connection that breaks off is an error of its file system: for a caller that starts
        over with `retry`.
        """
        path = self._at(name)
        if isinstance(self.files, LocalFiles):
            return Path(path).open("rb")
        if not resume:
            return self.files.open(path)
        return closing(ResumingReader(self._url(name), partial(self.files.open, path)))

    def writer(self, name: str, *, atomic: bool = True) -> AbstractContextManager[BinaryIO]:
        """Open a file for writing that gets its name when the block ends well, and else never existed.

        Args:
            name: Of the file; folders are made where they are missing.
            atomic: Without, it is written straight under its name and, behind a URL, not copied to this
                machine first: for large files that only count when a manifest with their checksums is there.
        """
        if isinstance(self.files, LocalFiles):
            return self.files.writer(self._at(name), atomic=atomic)
        return self.files.writer(self._at(name), self._url(name), atomic=atomic)

    def put(self, name: str, content: bytes) -> None:
        """Write a small file as one event: a reader finds all of it, or what was there before.

        On this machine the disk also has its name by then, which `writer` leaves to the system.
        """
        with self.writer(name) as file:
            file.write(content)
        if self.local is not None:
            sync_folder((self.local / name).parent)

    def create(self, name: str, content: bytes) -> bool:
        """Write a small file that is not there yet, and return whether this call has.

        Of any number of processes, on any machines, that create one name at the same time, one gets it or
        none. Then the name may be used up, and files that begin with it may stay.
        """
        try:
            return self.files.create(self._at(name), content)
        except OSError:
            raise
        except Exception as error:  # every kind of file system has errors of its own
            said = str(error) or type(error).__name__
            raise StorageError(f"{self._url(name)} cannot be written: {said}") from error

    def claim(self, name: str) -> bool:
        """Make the folder `name` if nothing has it yet, and return whether it is now the caller's alone.

        Of any number of processes, on any machines, that claim a name at the same time, one gets it or none.
        """
        if self.local is not None:
            return LocalFiles.make_folder(self._at(name))
        mine = f"{CLAIM}{uuid4().hex}"
        inside = self.child(name)
        if inside.names() or inside.folders():
            return False
        inside.put(mine, b"")
        # Of two that write and then list, the second to write sees both files: it must not have the name.
        if inside.names() == [mine] and not inside.folders():
            return True
        inside.remove(mine)
        return False

    def remove_claim(self) -> None:
        """Remove what `claim` left in this folder, which now holds other files."""
        if self.local is None:
            for name in self.names():
                if name.startswith(CLAIM):
                    self.remove(name)

    def remove(self, name: str) -> None:
        """Remove the file `name`, or the folder `name` with everything in it, if it is there."""
        with suppress(FileNotFoundError):
            self.files.remove(self._at(name))

    def remove_each(self, names: Sequence[str]) -> None:
        """Remove many files that are there, at the same time; one that is not is left out."""

        def remove(name: str) -> None:
            with suppress(FileNotFoundError):
                self.files.remove_file(self._at(name))

        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(remove, names))

    def remove_all(self) -> None:
        """Remove the folder and everything in it, its manifest first, so that no half of it ever counts."""
        self.remove("manifest.json")
        self.remove("")

    def _ask(self, name: str, act: Callable[[str], T]) -> T:
        path = self._at(name)
        if isinstance(self.files, LocalFiles):
            return act(path)
        return retry(self._url(name), lambda: act(path))

    def _at(self, name: str) -> str:
        return str(Path(self.path, name)) if self.local else _append(self.path, name)

    def _url(self, name: str) -> str:
        return f"{self.url.rstrip('/')}/{name}" if self.local else _append(self.url, name)


def _append(url: str, name: str) -> str:
    """Append a name to a URL, whose credentials and endpoints stand behind a question mark."""
    base, mark, query = url.partition("?")
    return f"{base.rstrip('/')}/{name}".rstrip("/") + mark + query
