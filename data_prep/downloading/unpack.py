"""Unpack a zip archive atomically file by file, resuming after an interruption.

Names that lead out of the folder, links and devices are refused: archives are untrusted.
"""

import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from data_prep.output import open_local
from qdet.errors import DataError
from qdet.storage.atomic import remove_unfinished


def unpack(archive: Path, folder: Path, *, advance: Callable[[float], None] = lambda _: None) -> int:
    """Write the files of `archive` below `folder`, except those present at full size; return their number.

    `advance` is called with the bytes of each file.

    Raises:
        DataError: The archive is damaged or holds anything but plain files below it.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            members = [member for member in opened.infolist() if not member.is_dir()]
            for member in members:
                _check_name(member, archive)
            for parent in {(folder / member.filename).parent for member in members}:
                remove_unfinished(parent)
            for member in members:
                _write(opened, member, folder / member.filename)
                advance(member.file_size)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise DataError(f"{archive} cannot be unpacked: {error}; remove it and fetch it again") from error
    return len(members)


def unpacked_bytes(archive: Path) -> int:
    """Return the unpacked bytes of all files of an archive."""
    try:
        with zipfile.ZipFile(archive) as opened:
            return sum(member.file_size for member in opened.infolist())
    except zipfile.BadZipFile as error:
        raise DataError(f"{archive} is not a zip archive: {error}; remove it and fetch it again") from error


def _check_name(member: zipfile.ZipInfo, archive: Path) -> None:
    name = PurePosixPath(member.filename)
    kind = stat.S_IFMT(member.external_attr >> 16)
    if name.is_absolute() or ".." in name.parts or "\\" in member.filename or kind not in (0, stat.S_IFREG):
        raise DataError(
            f"{archive} holds {member.filename!r}, which is not a plain file below it; nothing was unpacked"
        )


def _write(opened: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> None:
    if path.is_file() and path.stat().st_size == member.file_size:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with opened.open(member) as source, open_local(path, durable=False) as target:
        shutil.copyfileobj(source, target, 2**20)
