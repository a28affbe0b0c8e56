"""Locks between the processes of a machine, which the kernel takes back when a process dies.

Processes of several users share them in a folder that all of them may write: a file of locks gets the rights
of its folder, whatever the umask, and one that may only be read is locked all the same.
"""

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def locked(file: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold an exclusive lock; without `wait`, yield False if another process holds it."""
    descriptor = _open(file)
    try:
        yield _taken(descriptor, wait)
    finally:
        os.close(descriptor)


def mark(file: Path) -> int:
    """Mark something as wanted, together with others; closing the descriptor that is returned lets go."""
    descriptor = _open(file)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    return descriptor


def is_held(file: Path) -> bool:
    """Whether anybody holds the lock or a mark."""
    try:
        descriptor = _open_existing(file)
    except FileNotFoundError:
        return False
    try:
        return not _taken(descriptor, wait=False)
    finally:
        os.close(descriptor)


def share(file: Path) -> None:
    """Give a file or folder of this process the rights that its folder has, for those who may write there.

    A folder hands on its group and, where that is set, that only owners may remove what is theirs.
    """
    folder = stat.S_IMODE(file.parent.stat().st_mode)
    mine = 0o3777 if file.is_dir() else 0o666
    with suppress(PermissionError):  # of another user, who has done so
        file.chmod((folder & mine) | 0o600)


def _open(file: Path) -> int:
    """Open a file of locks, which is made where it is missing."""
    with suppress(FileNotFoundError):
        return _open_existing(file)
    with suppress(FileExistsError):
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        share(file)
        return descriptor
    return _open_existing(file)


def _open_existing(file: Path) -> int:
    """Open a file of locks; without O_CREAT, which Linux refuses for other users' files in shared folders."""
    try:
        return os.open(file, os.O_RDWR)
    except PermissionError:
        return os.open(file, os.O_RDONLY)


def _taken(descriptor: int, wait: bool) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True
