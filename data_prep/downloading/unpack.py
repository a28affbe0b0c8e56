"""A zip archive into a folder, going on where an earlier attempt stopped, with every file whole.

Names that lead out of the folder, links and devices are refused: an archive comes from elsewhere.
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
    """Write every file of `archive` below `folder` unless it is there in its size; return how many there are.

    `advance` is told the bytes of each file when it is done.
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


def unpacked_size(archive: Path) -> int:
    """Bytes of all files of an archive, unpacked."""
    try:
        with zipfile.ZipFile(archive) as opened:
            return sum(member.file_size for member in opened.infolist())
    except zipfile.BadZipFile as error:
        raise DataError(f"{archive} is no zip archive: {error}; remove it and fetch it again") from error


def _check_name(member: zipfile.ZipInfo, archive: Path) -> None:
    name = PurePosixPath(member.filename)
    kind = stat.S_IFMT(member.external_attr >> 16)
    if name.is_absolute() or ".." in name.parts or "\\" in member.filename or kind not in (0, stat.S_IFREG):
        raise DataError(
            f"{archive} holds {member.filename!r}, which is no plain file below it; nothing was unpacked"
        )


def _write(opened: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> None:
    if path.is_file() and path.stat().st_size == member.file_size:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with opened.open(member) as source, open_local(path, durable=False) as target:
        shutil.copyfileobj(source, target, 2**20)
