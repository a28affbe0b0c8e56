"""The files of a dataset's folder, listed once; names that annotations give are looked up here alone.

A name that leads out of the folder therefore opens nothing, and neither does a link that leads out of it
unless the user allows such links.
"""

import os
import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath

from data_prep.annotations.spellings import Spellings
from data_prep.wording import quote
from qdet.errors import DataError

IMAGES = frozenset((".jpg", ".jpeg", ".jpe", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"))
_ARCHIVES = frozenset((".zip", ".tar", ".gz", ".tgz", ".rar", ".7z"))
_SKIPPED = frozenset(("__MACOSX", "Thumbs.db"))


@dataclass(frozen=True)
class Tree:
    """Names of files relative to a folder, with `/`; those that begin with a dot are left out."""

    root: Path
    folders: Mapping[str, tuple[str, ...]] = field(repr=False)
    """Sorted names of the files in each folder; the root is ""."""

    @cached_property
    def files(self) -> frozenset[str]:
        """All files."""
        return frozenset(join(folder, name) for folder, names in self.folders.items() for name in names)

    def below(self, folder: str = "", *, suffixes: frozenset[str]) -> Iterator[str]:
        """Yield the files in `folder` and its folders that end in one of `suffixes` (lower case), sorted."""
        for inner in sorted(self.folders):
            if not folder or inner == folder or inner.startswith(f"{folder}/"):
                for name in self.folders[inner]:
                    if suffix_of(name) in suffixes:
                        yield join(inner, name)

    def images(self, folder: str = "") -> list[str]:
        """Return the images in `folder` and its folders, sorted."""
        return list(self.below(folder, suffixes=IMAGES))

    @cached_property
    def image_of_stem(self) -> Mapping[str, str]:
        """Images by their path without extension; of two that differ in it, the first."""
        found: dict[str, str] = {}
        for name in self.images():
            found.setdefault(posixpath.splitext(name)[0], name)
        return found

    def path(self, name: str) -> Path:
        """Return where a file is."""
        return self.root / name

    def look_up(self, name: object, *, base: str = "", where: str) -> str | None:
        """Return the file or folder that `name`, relative to the folder `base`, means; None if there is none.

        Raises:
            DataError: It leads out of the root; the message begins with `where`.
        """
        if not isinstance(name, str) or not name.strip():
            return None
        for separated in dict.fromkeys((name, name.replace("\\", "/"))):
            found = self._normalize(separated.strip(), base)
            if found is not None and (found in self.files or found in self.folders):
                return found
        inside = self._normalize(name.strip().replace("\\", "/"), base)
        if inside is None:
            raise DataError(
                f"{where} names {quote(name)}, which is outside of {self.root}; copy it into the folder and "
                "name it from there"
            )
        return self.spellings.find(inside)

    def find(self, name: str) -> str | None:
        """Return the file of that name, or the one that it spells in another way."""
        return name if name in self.files else self.spellings.find(name)

    @cached_property
    def spellings(self) -> Spellings:
        """The files, to be found by other spellings."""
        return Spellings(self.files)

    def _normalize(self, name: str, base: str) -> str | None:
        """Return a name relative to the root, without `.` and `..`; None if it leads out of it."""
        if PureWindowsPath(name).drive:
            return None
        found = posixpath.normpath(posixpath.join(base, name))
        if found.startswith("/"):
            try:
                found = PurePosixPath(found).relative_to(self.root.absolute()).as_posix()
            except ValueError:
                return None
        if found == ".." or found.startswith("../"):
            return None
        return "" if found == "." else found


def join(folder: str, name: str) -> str:
    """Return the name of a file in a folder; the root is ""."""
    return f"{folder}/{name}" if folder else name


def suffix_of(name: str) -> str:
    """Return the extension of a file in lower case, with its dot."""
    return posixpath.splitext(name)[1].lower()


def list_tree(root: Path, *, follow_links: bool = False) -> Tree:
    """List a folder; `follow_links` allows links that lead out of it.

    Raises:
        DataError: It is no folder, cannot be listed, or holds a link that leads out of it.
    """
    if not root.is_dir():
        archive = root.suffix.lower() in _ARCHIVES
        hint = "unpack it first" if archive else f"give the folder that holds it, {root.parent}"
        raise DataError(f"{root} is no folder; {hint}" if root.exists() else f"{root} does not exist")
    inside = os.path.realpath(root)
    folders: dict[str, tuple[str, ...]] = {}
    waiting = [("", False)]
    while waiting:
        folder, linked = waiting.pop()
        names: list[str] = []
        for entry in _scan(root / folder):
            name = join(folder, entry.name)
            link = entry.is_symlink()
            if link and not (follow_links or _is_inside(entry.path, inside)):
                raise DataError(
                    f"{root / name} is a link to {os.path.realpath(entry.path)}, outside of the folder; "
                    "--follow-links allows such links if you trust the dataset"
                )
            if entry.is_file():
                names.append(_check_name(entry.name, root / folder))
            elif entry.is_dir() and not (link and linked):  # a link below a linked folder may lead round
                waiting.append((name, link or linked))
        folders[folder] = tuple(sorted(names))
    return Tree(root, folders)


def _scan(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [e for e in entries if not e.name.startswith(".") and e.name not in _SKIPPED]
    except OSError as error:
        raise DataError(f"{folder} cannot be listed: {error.strerror or error}") from error


def _is_inside(path: str, root: str) -> bool:
    target = os.path.realpath(path)
    return target == root or target.startswith(root.rstrip("/") + "/")


def _check_name(name: str, folder: Path) -> str:
    """Return a name that JSON can hold; raise DataError for one that is no Unicode."""
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{folder} holds a file whose name is not UTF-8, {os.fsencode(name)!r}; rename it"
        ) from error
    return name
