"""What travels with a submitted job: source, and small data of its packages; no weights, images, datasets.

`EXCLUDES` says it for any project in the syntax of `.gitignore`, and this project's `.rayignore` repeats it
for Ray's own `ray job submit`. `plan_upload` looks at the folder besides: labels among images stay, code
below `data/` travels, and so does what a package keeps beside its code.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qdet.errors import ConfigError
from qdet.launching.ray_backend.uploading.project_tree import (
    OTHER,
    SKIPPED,
    Folder,
    is_code,
    is_other,
    join,
    read_folder,
)

LARGE = 10 * 2**20
"""Bytes from which a file is named; one that is neither code nor of a package is left out."""
RAYS_LIMIT = "RAY_max_grpc_message_size"
"""Environment variable of Ray: bytes that an upload must be below, half a GiB by default."""
OWN = ("data", "outputs", "mlruns")
"""Folders that this project writes, below the one that jobs are submitted from."""
MOST_IN_PACKAGE = 100
"""Files of other kinds up to which those in one package are taken for a part of it."""
SHOWN = 5
"""Most files that a line names."""


def _any_case(ending: str) -> str:
    return "*." + "".join(f"[{c}{c.upper()}]" if c.isalpha() else c for c in ending)


_KINDS = [*(f"{name}/" for name in SKIPPED), *map(_any_case, OTHER), "!/qdet/**/*.safetensors"]
EXCLUDES = [*_KINDS, *(f"/{name}/" for name in OWN)]
"""Patterns of what does not travel; the last that matches a path decides."""


@dataclass(frozen=True)
class Upload:
    """What is uploaded from a folder."""

    excludes: list[str]
    """Patterns as those of `EXCLUDES`."""
    files: Mapping[str, int]
    """Bytes of every file that travels, by path."""
    left_out: Mapping[str, int]
    """Bytes of files and whole folders that are left out because of what they seem to be."""

    def describe(self) -> str:
        """Say what travels and what does not, the largest first."""
        large = {name: size for name, size in self.files.items() if size >= LARGE}
        files = "1 file" if len(self.files) == 1 else f"{len(self.files):,} files"
        said = f"uploading {files}, {_megabytes(sum(self.files.values()))}"
        said += f"; large: {_list(large)}" if large else ""
        if self.left_out:
            said += f"\nnot uploaded, being no source: {_list(self.left_out)}; --include PATH uploads it too"
        return said


def plan_upload(root: Path, include: Sequence[str] = ()) -> Upload:
    """Choose what of a project's folder travels.

    Args:
        root: The folder.
        include: Files and folders below it that travel whatever they are.

    Raises:
        ConfigError: A path of `include` cannot travel, or there is more than Ray takes.
    """
    root = root.absolute()
    kept = frozenset(_find(root, path) for path in include)
    tree = read_folder(root)
    left_out = {path: size for path, size in _leave_out(tree, kept) if path not in OWN}
    written = (path for folder in tree.folders if folder.path in OWN for path in _idle(folder, kept))
    own = [f"/{escape(path)}/" for path in written]
    kept_whole = [escape(path) for path in (*_package_data(tree), *sorted(kept))]
    back = [f"!/{path}{rest}" for path in kept_whole for rest in ("", "/**")]
    named = [f"/{escape(path)}" for path in left_out if not is_other(path)]
    excludes = [*_KINDS, *named, *own, *back]
    files = _pack(root, excludes)
    for path in kept:
        if not any(name == path or name.startswith(f"{path}/") for name in files):
            raise ConfigError(f"--include {path}: a .gitignore or .rayignore leaves it out; change that")
    _refuse_too_much(files)
    return Upload(excludes, files, left_out)


def escape(path: str) -> str:
    r"""Return a path as a pattern that matches it alone.

    >>> escape("data [1]/#x")
    'data\\\\ \\\\[1\\\\]/\\\\#x'
    """
    return re.sub(r"([\\*?\[\]!#\s])", r"\\\1", path)


def _leave_out(folder: Folder, kept: frozenset[str], inside: bool = False) -> Iterator[tuple[str, int]]:
    """Yield environments, datasets, files of other kinds, and large files without code; not of a package."""
    if folder.path in kept or (inside and _is_package_data(folder)):
        return
    if folder.path and (folder.is_environment or (folder.is_data and not _must(folder, kept))):
        yield folder.path, folder.bytes
        return
    ours = set(_data_of(folder))
    for name, size in folder.files.items():
        path = join(folder.path, name)
        large = size >= LARGE and not is_code(name) and not folder.is_package
        if (large or is_other(name)) and path not in ours | kept:
            yield path, size
    for below in folder.folders:
        yield from _leave_out(below, kept, folder.is_package)


def _package_data(folder: Folder, inside: bool = False) -> Iterator[str]:
    """Yield the files of other kinds that packages keep beside their code, and small folders of such."""
    if inside and _is_package_data(folder):
        yield folder.path
        return
    yield from _data_of(folder)
    for below in folder.folders:
        yield from _package_data(below, folder.is_package)


def _data_of(folder: Folder) -> list[str]:
    names = [name for name in folder.files if is_other(name)]
    ours = folder.is_package and len(names) <= MOST_IN_PACKAGE
    return [join(folder.path, name) for name in names] if ours else []


def _is_package_data(folder: Folder) -> bool:
    return not folder.holds_code and not folder.is_environment and folder.bytes < LARGE


def _must(folder: Folder, kept: frozenset[str]) -> bool:
    """Whether something below a folder travels: code, or what was asked for."""
    below = f"{folder.path}/"
    return folder.holds_code or any(path == folder.path or path.startswith(below) for path in kept)


def _idle(folder: Folder, kept: frozenset[str]) -> Iterator[str]:
    """Yield the largest folders in which nothing must travel."""
    if not _must(folder, kept):
        yield folder.path
    elif folder.path not in kept:
        for below in folder.folders:
            yield from _idle(below, kept)


def _find(root: Path, path: str) -> str:
    """Return a path of --include relative to the project."""
    full = Path(os.path.normpath(root / path))
    if not full.exists() or not full.is_relative_to(root) or full == root:
        raise ConfigError(f"--include {path}: no such file or folder below {root}")
    return full.relative_to(root).as_posix()


def _pack(root: Path, excludes: list[str]) -> dict[str, int]:
    """Return what Ray packs, by its own walk: it heeds .gitignore and .rayignore of every folder, too."""
    from ray._private.runtime_env import packaging

    found: dict[str, int] = {}

    def note(path: Path) -> None:
        if path.is_file():
            found[path.relative_to(root).as_posix()] = path.stat().st_size

    heed = os.environ.get("RAY_RUNTIME_ENV_IGNORE_GITIGNORE", "0") != "1"
    walk: Any = packaging._dir_travel
    walk(root, [packaging._get_excludes(root, excludes)], note, include_gitignore=heed)
    return found


def _refuse_too_much(files: Mapping[str, int]) -> None:
    total, most = sum(files.values()), int(os.environ.get(RAYS_LIMIT, 512 * 2**20))
    if total >= most:
        raise ConfigError(
            f"what would be uploaded has {_megabytes(total)}, and Ray takes less than {_megabytes(most)}; "
            f"the largest are {_list(files)}: move them elsewhere, or name them in a .rayignore"
        )


def _list(sizes: Mapping[str, int]) -> str:
    ranked = sorted(sizes.items(), key=lambda item: -item[1])
    named = [f"{name} ({_megabytes(size)})" for name, size in ranked[:SHOWN]]
    more = [f"{len(ranked) - SHOWN:,} more"] if len(ranked) > SHOWN else []
    return ", ".join([*named, *more])


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
