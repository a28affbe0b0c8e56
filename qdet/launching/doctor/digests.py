"""Whether two machines hold the same dataset: sizes of all files, and bytes of some, in a second or two.

A copy that was cut short, left out a file or is of another day is noticed; one flipped bit most likely is
not: `python -m data_prep.verify` reads everything.
"""

import hashlib
import os
from pathlib import Path

from qdet.launching.doctor.facts import Copy
from qdet.storage.braces import expand_braces
from qdet.storage.urls import is_url

SAMPLED = 64
"""Files of which bytes are compared."""
PIECE = 2**16
"""Bytes at the beginning, in the middle and at the end of each."""
_IMAGES = {".tar", ".jpg", ".jpeg", ".png", ".webp"}


def describe_copy(path: str) -> Copy:
    """Return what this machine sees of a folder, file or brace pattern; nothing of a URL, which all share."""
    if is_url(path):
        return Copy(digest="", files=0, bytes=0)
    try:
        files = _list_files(path)
        digests = _digest_files(files)
    except OSError as error:
        return Copy(digest="", files=0, bytes=0, error=f"{error.strerror or error}")
    hashing = hashlib.sha256()
    for name, digest in digests.items():
        hashing.update(f"{name}\0{digest}\0".encode("utf-8", "surrogateescape"))
    return Copy(digest=hashing.hexdigest()[:16], files=len(files), bytes=sum(size for _, _, size in files))


def digest_files(path: str) -> dict[str, str]:
    """Return a digest of every file by name: of its size, and of its bytes where it is one of the sample.

    Raises:
        OSError: The path is not there, or cannot be read.
    """
    return _digest_files(_list_files(path))


def find_difference(one: dict[str, str], other: dict[str, str]) -> str | None:
    """Return the first file by name that two copies do not share; None where they are equal."""
    names = sorted(one.keys() | other.keys())
    return next((name for name in names if one.get(name) != other.get(name)), None)


def _list_files(path: str) -> list[tuple[str, Path, int]]:
    """Return name below the path, place and size of every file; FileNotFoundError where there is none."""
    root = Path(path).expanduser()
    if root.is_dir():
        below = sorted(Path(folder, name) for folder, _, names in os.walk(root) for name in names)
        found = [(str(file.relative_to(root)), file) for file in below]
    else:
        found = [(Path(name).name, Path(name).expanduser()) for name in expand_braces(path)]
    if not found:
        raise FileNotFoundError(2, "no file is there", path)
    return [(name, file, file.stat().st_size) for name, file in found]


def _digest_files(files: list[tuple[str, Path, int]]) -> dict[str, str]:
    sampled = set(sorted((name for name, _, _ in files), key=_rank)[:SAMPLED])
    return {name: _digest(file, size, name in sampled) for name, file, size in files}


def _rank(name: str) -> tuple[bool, bytes]:
    """Order files for the sample: indexes, manifests and labels first, then by chance."""
    chance = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return Path(name).suffix.lower() in _IMAGES, chance


def _digest(file: Path, size: int, sampled: bool) -> str:
    hashing = hashlib.sha256(str(size).encode())
    if sampled:
        with file.open("rb") as opened:
            for start in (0, size // 2, size - PIECE):
                opened.seek(max(0, start))
                hashing.update(opened.read(PIECE))
    return hashing.hexdigest()[:16]
