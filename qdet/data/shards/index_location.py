"""Where the manifest and index of a dataset are: in its folder, or in one on this machine made for them.

Those of a dataset behind a URL are copied into `<cache>/indexes`. Those of third-party shards, which come
without either, are made by a scan and kept in `.qdet-index` beside the shards or, where that cannot be
written, in `<cache>/indexes`. Such folders appear in one piece, and processes that need the same one wait for
the first.
"""

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qdet.data.files.download import fetch_file, size_of
from qdet.data.files.shared_folders import make_shared
from qdet.data.shards.index_third_party import check_bad, identity, scan_set
from qdet.data.shards.locate import Access, DatasetInfo
from qdet.data.shards.manifest import INDEX, NAME, parse_manifest
from qdet.errors import DataError
from qdet.storage.process_locks import locked, share
from qdet.storage.urls import is_url, join

BESIDE = ".qdet-index"
"""Folder beside third-party shards that keeps what their scan found."""


@dataclass(frozen=True)
class IndexLocation:
    """A folder on this machine with a dataset's manifest and index."""

    folder: Path
    manifest: Mapping[str, Any]
    base: str
    """What relative names of shards in the manifest start from."""
    remedy: str
    """What to do when the folder is damaged."""


def locate_index(info: DatasetInfo, access: Access) -> IndexLocation:
    """Find the manifest and index of a dataset; fetch or make them where this machine has none.

    Raises:
        DataError: The index does not belong to the manifest, or third-party shards are damaged.
    """
    if info.manifest is None:
        return _scan(info, access)
    if is_url(info.address):
        return _copy(info.address, info.manifest, info.manifest_bytes, access)
    return IndexLocation(Path(info.address), info.manifest, info.address, "convert the dataset again")


def _copy(url: str, manifest: Mapping[str, Any], data: bytes, access: Access) -> IndexLocation:
    """Copy manifest and index of a dataset behind a URL, once per version of it."""
    version = hashlib.sha256(url.encode() + b"\n" + data).hexdigest()[:32]

    def fetch(folder: Path) -> None:
        if fetch_file(join(url, INDEX), folder / INDEX) != manifest["index_sha256"]:
            raise DataError(f"{join(url, INDEX)} does not belong to {join(url, NAME)}; upload both again")
        (folder / NAME).write_bytes(data)

    folder = _make_in_cache(access, version, fetch)
    return IndexLocation(folder, manifest, url, f"delete {folder}; it is fetched again")


def _scan(info: DatasetInfo, access: Access) -> IndexLocation:
    """Scan shards that came without manifest and index, once per version of them."""
    names = [shard.name for shard in info.shards]
    shards = _sizes(names)
    files = access.files([{"url": name, "filesize": size} for name, size, _ in shards], "")
    name = identity(shards, access.categories)

    def scan(folder: Path) -> None:
        found = scan_set(
            files,
            categories=access.categories,
            name=info.address,
            max_pixels=access.max_pixels,
            max_bad=access.max_bad,
        )
        for file, content in found.items():
            (folder / file).write_bytes(content)

    if is_url(names[0]):
        folder = _make_in_cache(access, name, scan)
    else:
        try:
            folder = _make_once(Path(names[0]).parent / BESIDE, name, scan)
        except OSError:  # a folder that can only be read
            folder = _make_in_cache(access, name, scan)
    manifest = _read_manifest(folder)
    check_bad(manifest.get("dropped_samples", ()), access.max_bad)
    return IndexLocation(folder, manifest, "", f"delete {folder}; the shards are scanned again")


def _sizes(names: Sequence[str]) -> list[tuple[str, int, int]]:
    """Name, size and time of change of every shard; servers are not asked for the time."""

    def ask(name: str) -> tuple[str, int, int]:
        if is_url(name):
            return name, size_of(name), 0
        try:
            found = Path(name).absolute().stat()
        except OSError as error:
            raise DataError(f"{name} cannot be read: {error.strerror or error}; complete the copy") from error
        return str(Path(name).absolute()), found.st_size, found.st_mtime_ns

    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(ask, names))


def _make_in_cache(access: Access, name: str, make: Callable[[Path], None]) -> Path:
    parent = access.folder / "indexes"
    if not (parent / name).is_dir():  # else reading is enough
        make_shared(parent, cache=access.folder)
    return _make_once(parent, name, make)


def _make_once(parent: Path, name: str, make: Callable[[Path], None]) -> Path:
    """Folder `name` in `parent` with the files that `make` writes into it, made by one process alone."""
    folder = parent / name
    if folder.is_dir():
        return folder
    parent.mkdir(parents=True, exist_ok=True)
    with locked(parent / f"{name}.lock"):
        if not folder.is_dir():
            with tempfile.TemporaryDirectory(dir=parent) as temporary:
                whole = Path(temporary) / name
                whole.mkdir()
                make(whole)
                shutil.move(whole, folder)
                share(folder)
                for file in folder.iterdir():
                    share(file)
    return folder


def _read_manifest(folder: Path) -> dict[str, Any]:
    file = folder / NAME
    try:
        data = file.read_bytes()
    except OSError as error:
        raise DataError(
            f"{file} cannot be read: {error.strerror or error}; delete {folder}, the shards are scanned again"
        ) from error
    return parse_manifest(data, where=str(file))
