"""The files of this machine, as a folder uses them."""

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from qdet.storage.atomic import atomic_file, make_folders, sync_folder, unfinished_prefix


@dataclass(frozen=True)
class LocalFiles:
    """Files by their path. Everything raises the OSErrors of this machine."""

    def names(self, path: str, *, folders: bool) -> list[str]:
        """Names of the files, or of the folders, right inside a folder; none where there is no folder."""
        try:
            with os.scandir(path) as entries:
                return sorted(e.name for e in entries if (e.is_dir() if folders else e.is_file()))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def size(self, path: str) -> int | None:
        """Bytes of a file; None where there is none."""
        try:
            found = os.stat(path)  # noqa: PTH116
        except (FileNotFoundError, NotADirectoryError):
            return None
        return found.st_size if stat.S_ISREG(found.st_mode) else None

    def sizes(self, path: str) -> dict[str, int]:
        """Bytes of the files right inside a folder, by name."""
        try:
            with os.scandir(path) as entries:
                return {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
        except (FileNotFoundError, NotADirectoryError):
            return {}

    def modified(self, path: str) -> datetime:
        """When a file was last written."""
        return datetime.fromtimestamp(Path(path).stat().st_mtime, UTC)

    def read(self, path: str) -> bytes:
        """Return a whole small file."""
        return Path(path).read_bytes()

    @contextmanager
    def writer(self, path: str, *, atomic: bool) -> Iterator[BinaryIO]:
        """Open a file for writing, in a folder that is made where it is missing."""
        target = Path(path)
        make_folders(target.parent)
        if atomic:
            with atomic_file(target) as file:
                yield file
        else:
            with target.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())

    @staticmethod
    def create(path: str, content: bytes) -> bool:
        """Write a new file, with its folders, as one event; return False where something has its name."""
        target = Path(path)
        make_folders(target.parent)
        temporary = target.with_name(f"{unfinished_prefix(target.name)}{uuid4().hex[:8]}")
        try:
            with atomic_file(temporary) as file:
                file.write(content)
            _link(temporary, target)
        except FileExistsError:
            return False
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(target.parent)
        return True

    @staticmethod
    def make_folder(path: str) -> bool:
        """Make a new folder, with its parents; return False where something has its name."""
        make_folders(Path(path).parent)
        try:
            Path(path).mkdir()
        except FileExistsError:
            return False
        sync_folder(Path(path).parent)
        return True

    def remove_file(self, path: str) -> None:
        """Remove a file; FileNotFoundError where there is none."""
        Path(path).unlink()

    def remove(self, path: str) -> None:
        """Remove a file, or a folder with everything in it; FileNotFoundError where there is neither."""
        target = Path(path)
        if target.is_dir():
            shutil.rmtree(target)
        else:
            target.unlink()


def _link(file: Path, target: Path) -> None:
    """Give a file a second name; FileExistsError where something has that, which a rename would replace.

    Where a file system has no links, the content is written under the name instead.
    """
    try:
        os.link(file, target)
    except FileExistsError:
        raise
    except OSError:
        with target.open("xb") as copy:
            copy.write(file.read_bytes())
            copy.flush()
            os.fsync(copy.fileno())
