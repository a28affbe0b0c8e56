"""Temporary folders that the next start removes where a process was killed before it could.

A folder is in use while a process holds the lock on its file `.in-use`; the kernel takes that back when the
process dies, also in another container of the machine. Only folders of this user are looked at.
"""

import fcntl
import os
import shutil
import stat
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from weakref import finalize

IN_USE = ".in-use"
"""File whose lock says that a folder is in use."""
ABANDONED = 24 * 3600.0
"""Seconds after which a folder without that file counts as left behind, by an earlier version say."""


class ScratchFolder:
    """A new temporary folder, which goes with this object, or else at the next start.

    Args:
        prefix: How its name begins, such as `qdet-checkpoint-`.
    """

    def __init__(self, prefix: str) -> None:
        while True:
            self.path = Path(tempfile.mkdtemp(prefix=prefix))
            lock = _lock(self.path / IN_USE, os.O_CREAT)
            if lock is not None and _names(self.path / IN_USE, lock):
                break
            if lock is not None:  # a process that looked for abandoned folders was faster
                os.close(lock)
        self._clean = finalize(self, _remove, self.path, lock)

    def remove(self) -> None:
        """Remove it and all that is in it."""
        self._clean()


def remove_abandoned(prefix: str) -> list[Path]:
    """Remove this user's temporary folders of killed processes; return them.

    What cannot be removed stays, without an error.

    Args:
        prefix: How their names begin.
    """
    removed = []
    with suppress(OSError):
        for folder in sorted(Path(tempfile.gettempdir()).glob(f"{prefix}*")):
            with suppress(OSError):
                if _is_abandoned(folder):
                    shutil.rmtree(folder)
                    removed.append(folder)
    return removed


def _is_abandoned(folder: Path) -> bool:
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        return False
    try:
        lock = _lock(folder / IN_USE)
    except FileNotFoundError:
        return time.time() - found.st_mtime > ABANDONED
    if lock is None:
        return False
    os.close(lock)
    return True


def _lock(file: Path, flags: int = 0) -> int | None:
    """Lock a file; None where another process has it, OSError where it is a link."""
    descriptor = os.open(file, os.O_RDWR | os.O_NOFOLLOW | flags, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _names(file: Path, descriptor: int) -> bool:
    """Whether a name is still that of an open file."""
    try:
        return os.path.samestat(file.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _remove(folder: Path, lock: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    os.close(lock)
