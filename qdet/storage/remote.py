"""Files behind a URL, as a folder uses them: whatever file system of fsspec opens it.

A file gets its name when all of it is there. It is written to this machine's temporary folder first and then
uploaded: object stores show an upload when it is complete, and everywhere else it is renamed at the end.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, Any, BinaryIO, cast
from uuid import uuid4

from qdet.errors import StorageError
from qdet.storage.atomic import unfinished_prefix
from qdet.storage.network import is_refused

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

_SHOWS_WHOLE_UPLOADS = frozenset(("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oss"))

_CREATES_EXCLUSIVELY = frozenset(("s3", "s3a", "gs", "gcs"))
"""Protocols whose packages for fsspec, s3fs and gcsfs, can create a file only where there is none."""


@dataclass(frozen=True)
class RemoteFiles:
    """Files by their path in a file system of fsspec, which has errors of its own. Nothing is asked twice."""

    filesystem: "AbstractFileSystem"

    def names(self, path: str, *, folders: bool) -> list[str]:
        """Names of the files, or of the folders, right inside a folder; none where a server cannot list."""
        if self._has_protocol("http", "https"):
            return []  # what a web page links to is no list of files
        self.filesystem.invalidate_cache()
        try:
            found = self.filesystem.ls(path, detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return []
        kind = "directory" if folders else "file"
        paths = [str(entry["name"]).strip("/") for entry in found if entry["type"] == kind]
        # Object stores list the empty object that stands for a folder as a file inside it.
        return sorted(one.rpartition("/")[2] for one in paths if one != path.strip("/"))

    def size(self, path: str) -> int | None:
        """Bytes of a file; None where there is none."""
        self.filesystem.invalidate_cache()
        try:
            found = self.filesystem.info(path)
        except (FileNotFoundError, NotADirectoryError) as error:
            if (failure := _hidden_failure(error)) is not None:
                raise failure from None
            return None
        if found["type"] == "file" and found["size"] is None:
            raise StorageError(f"{path}: its server does not tell its size; serve it as a plain file")
        return int(found["size"]) if found["type"] == "file" else None

    def sizes(self, path: str) -> dict[str, int]:
        """Bytes of the files right inside a folder, by name, as one listing tells them."""
        self.filesystem.invalidate_cache()
        try:
            found = self.filesystem.ls(path, detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return {}
        files = [entry for entry in found if entry["type"] == "file" and entry["size"] is not None]
        return {str(entry["name"]).rpartition("/")[2]: int(entry["size"]) for entry in files}

    def modified(self, path: str) -> datetime:
        """When a file was last written."""
        return self.filesystem.modified(path)

    def read(self, path: str) -> bytes:
        """Return a whole small file."""
        return bytes(self.filesystem.cat_file(path))  # type: ignore[arg-type]  # never text

    def open(self, path: str) -> Any:
        """Open a file to be read once from front to back."""
        from fsspec.implementations.arrow import ArrowFSWrapper

        options: dict[str, Any] = {}
        if isinstance(self.filesystem, ArrowFSWrapper):
            options = {"seekable": False}
        elif self._has_protocol("http", "https"):
            # Block size 0 asks for one plain GET; any size spares the question for it.
            options = {"block_size": 0, "size": 1}
        return self.filesystem.open(path, "rb", **options)

    @contextmanager
    def writer(self, path: str, url: str, *, atomic: bool) -> Iterator[BinaryIO]:
        """Open a file for writing, in a folder that is made where it is missing.

        Raises:
            StorageError: The upload failed, which the message says of `url`.
        """
        if not atomic:
            self.filesystem.makedirs(path.rpartition("/")[0], exist_ok=True)
            with self.filesystem.open(path, "wb") as file:
                yield cast(BinaryIO, file)
            return
        with NamedTemporaryFile(prefix="qdet-upload-") as file:
            yield cast(BinaryIO, file)
            file.flush()
            self._upload(Path(file.name), path, url)

    def create(self, path: str, content: bytes) -> bool:
        """Write a new small file; return False where something has its name, or others create it too.

        Where the file system has a request that fails if the name is taken, as S3's `If-None-Match: *`, that
        decides. Elsewhere each writes a mark of its own and then lists: of two, the second sees both. That
        needs listings that show what was written before, which all large object stores have.
        """
        if self._creates_exclusively():
            try:
                self.filesystem.pipe_file(path, content, mode="create")
            except FileExistsError:
                return False
            return True
        folder, _, name = path.rpartition("/")
        mark = f"{name}.claim-{uuid4().hex}"
        self._put(f"{folder}/{mark}", content)
        if [one for one in self.names(folder, folders=False) if one.startswith(name)] != [mark]:
            self.filesystem.rm_file(f"{folder}/{mark}")
            return False
        self._put(path, content)
        return True

    def remove(self, path: str) -> None:
        """Remove a file, or a folder with everything in it; FileNotFoundError where there is neither."""
        self.filesystem.invalidate_cache()
        if self.filesystem.info(path)["type"] == "directory":
            self.filesystem.rm(path, recursive=True)
        else:
            self.filesystem.rm_file(path)

    def remove_file(self, path: str) -> None:
        """Remove a file without asking whether it is one; FileNotFoundError where there is none."""
        self.filesystem.rm_file(path)

    def _creates_exclusively(self) -> bool:
        from fsspec.asyn import AsyncFileSystem

        return isinstance(self.filesystem, AsyncFileSystem) and self._has_protocol(*_CREATES_EXCLUSIVELY)

    def _put(self, path: str, content: bytes) -> None:
        with self.writer(path, path, atomic=True) as file:
            file.write(content)

    def _upload(self, local: Path, path: str, url: str) -> None:
        folder, _, name = path.rpartition("/")
        whole = self._has_protocol(*_SHOWS_WHOLE_UPLOADS)
        target = path if whole else f"{folder}/{unfinished_prefix(name)}{uuid4().hex[:8]}"
        try:
            if not whole:
                self.filesystem.makedirs(folder, exist_ok=True)
            self.filesystem.put_file(str(local), target)
            if not whole:
                self.filesystem.mv(target, path)
            found, sent = self.size(path), local.stat().st_size
        except Exception as error:  # every kind of file system has errors of its own
            if not whole:
                with suppress(Exception):
                    self.filesystem.rm_file(target)
            raise StorageError(f"{url} cannot be written: {str(error) or type(error).__name__}") from error
        if found != sent:
            raise StorageError(f"{url} has {found} bytes after an upload of {sent}; run it again")

    def _has_protocol(self, *names: str) -> bool:
        own = self.filesystem.protocol
        return not set(names).isdisjoint([own] if isinstance(own, str) else own)


def _hidden_failure(error: OSError) -> Exception | None:
    """Return why fsspec says "not found" of a web server that gave no answer; None where it gave one."""
    cause = error.__cause__
    if not isinstance(cause, Exception) or isinstance(cause, FileNotFoundError) or is_refused(cause):
        return None
    return cause
