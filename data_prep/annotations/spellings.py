"""Find files whose names annotations spell in another way: Unicode form, slashes, %20, upper and lower case.

macOS writes names decomposed (e and an accent), Windows ignores case and writes backslashes, and exports of
web tools quote names as URLs do. A file is taken only where nothing else could be meant.
"""

import os
import posixpath
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from urllib.parse import unquote


class Spellings:
    """Names of files, to be found by other spellings.

    Args:
        files: Their names, with `/`.
    """

    def __init__(self, files: Iterable[str]) -> None:
        self._exact: defaultdict[str, list[str]] = defaultdict(list)
        self._folded: defaultdict[str, list[str]] = defaultdict(list)
        self._named: defaultdict[str, list[str]] = defaultdict(list)
        for file in files:
            plain = _plain(file)
            self._exact[plain].append(file)
            self._folded[plain.casefold()].append(file)
            self._named[posixpath.basename(plain).casefold()].append(file)

    @classmethod
    def of_folder(cls, folder: Path) -> "Spellings":
        """List the files below a folder."""
        return cls(_walk(folder))

    def find(self, name: str) -> str | None:
        """Return the one file that `name` spells in another way; None where there is none, or several."""
        for spelling in dict.fromkeys((_plain(name), _plain(unquote(name)))):
            for files in (self._exact.get(spelling), self._folded.get(spelling.casefold())):
                if files:
                    return files[0] if len(files) == 1 else None
        return None

    def near(self, name: str) -> str | None:
        """Return a file that `name` may mean without certainty: in another folder, or one of several."""
        plain = _plain(unquote(name)).casefold()
        files = self._folded.get(plain) or self._named.get(posixpath.basename(plain))
        return files[0] if files else None


class Folder:
    """A folder of images, listed when a name is first not found in it.

    Args:
        path: Where it is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def file(self, name: str) -> Path:
        """Return the file of that name, or the one that it spells in another way."""
        exact = self.path / name
        if exact.is_file():
            return exact
        return self.path / (self._spellings.find(name) or name)

    @cached_property
    def _spellings(self) -> Spellings:
        return Spellings.of_folder(self.path)


def _plain(name: str) -> str:
    return posixpath.normpath(unicodedata.normalize("NFC", name.strip().replace("\\", "/")))


def _walk(folder: Path) -> Iterator[str]:
    for here, _, names in os.walk(folder):
        inside = os.path.relpath(here, folder)
        for name in names:
            yield name if inside == "." else f"{inside}/{name}"
