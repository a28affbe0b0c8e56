"""Where a dataset's manifest and index are: in its folder, or in one on this machine that is made for them.

Those of a dataset behind a URL are copied into `<cache>/indexes`. Those of one that others packed, without
either, are made by a scan and kept in `.qdet-index` beside the shards or, where that cannot be written, in
`<cache>/indexes`. Such folders appear in one piece, and processes that need the same one wait for the first.
"""

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qdet.data.files.cached_files import CachedShards
from qdet.data.files.download import Absent, names_in, read_bytes, size_of
from qdet.data.files.local_files import ShardFiles
from qdet.data.files.node_cache import NodeCache, RemoteShard
from qdet.data.shards.index_foreign import identity, scan_set
from qdet.data.shards.manifest import INDEX, NAME, parse_manifest
from qdet.errors import DataError
from qdet.storage.process_locks import locked
from qdet.storage.urls import checked, expand, is_pattern, is_url, join

BESIDE = ".qdet-index"
"""Folder beside foreign shards that keeps what their scan found."""
UNFINISHED = ".parts"
"""Folder that a conversion keeps until it is finished."""


@dataclass(frozen=True, kw_only=True)
class Access:
    """What reading a dataset may need besides its address."""

    cache: str = "~/.cache/qdet"
    """Folder for shards from behind URLs."""
    cache_gb: float = 100.0
    """Largest size of those shards together."""
    categories: str | None = None
    """File with the classes of shards that do not name them."""
    max_pixels: int = 100_000_000
    """Largest image that is decoded."""
    allow_pipes: tuple[str, ...] = ()
    """Commands that may be run where shards are read from front to back."""

    @property
    def folder(self) -> Path:
        """The cache's folder on this machine."""
        return Path(self.cache).expanduser()

    def files(self, shards: Sequence[Mapping[str, Any]], base: str) -> ShardFiles | CachedShards:
        """Shards that a manifest in `base` lists, for reading."""
        names = [join(base, shard["url"]) for shard in shards]
        if not any(map(is_url, names)):
            return ShardFiles([Path(name) for name in names])
        here = [name for name in names if not is_url(name)]
        if here:
            raise DataError(f"{here[0]} is on this machine, other shards of its dataset are behind URLs")
        remote = [
            RemoteShard(name, shard["filesize"], shard.get("sha256"))
            for name, shard in zip(names, shards, strict=True)
        ]
        return CachedShards(remote, NodeCache(self.folder, round(self.cache_gb * 1e9)))


@dataclass(frozen=True)
class Home:
    """A folder on this machine with a dataset's manifest and index."""

    folder: Path
    base: str
    """What relative names of shards in the manifest start from."""
    mend: str
    """What to do when the folder is damaged."""


def find(source: str, access: Access) -> Home:
    """Find the home of a dataset, and make it where there is none."""
    if is_pattern(source):
        return _scanned(source, expand(source), access)
    address = checked(source)
    if is_url(address):
        with suppress(Absent):
            return _copied(address, read_bytes(join(address, NAME)), access)
    elif (Path(address) / NAME).is_file():
        return Home(Path(address), address, "convert the dataset again")
    found = names_in(address)
    if UNFINISHED in found:
        raise DataError(
            f"{address} holds a conversion that did not finish (no {NAME}); run the same command again"
        )
    tars = [join(address, name) for name in found if name.endswith(".tar")]
    if tars:
        return _scanned(address, tars, access)
    raise DataError(
        f"{address} holds no shards that are known of (no {NAME}). Make them with: "
        f"python -m data_prep.coco_to_shards --coco DIR --split SPLIT --out {address}, or name foreign "
        f"ones by a pattern such as {address}/train-{{000000..000146}}.tar"
    )


def _copied(url: str, manifest: bytes, access: Access) -> Home:
    """Copy manifest and index of a dataset behind a URL, once per version of it."""
    version = hashlib.sha256(url.encode() + b"\n" + manifest).hexdigest()[:32]

    def fetch() -> dict[str, bytes]:
        expected = parse_manifest(manifest, where=join(url, NAME))["index_sha256"]
        index = read_bytes(join(url, INDEX))
        if hashlib.sha256(index).hexdigest() != expected:
            raise DataError(f"{join(url, INDEX)} does not belong to {join(url, NAME)}; upload both again")
        return {INDEX: index, NAME: manifest}

    folder = _made(access.folder / "indexes", version, fetch)
    return Home(folder, url, f"delete {folder}; it is fetched again")


def _scanned(source: str, names: Sequence[str], access: Access) -> Home:
    """Scan shards that came without manifest and index, once per version of them."""
    shards = _sizes(names)
    files = access.files([{"url": name, "filesize": size} for name, size, _ in shards], "")
    name = identity(shards, access.categories)
    beside = Path(names[0]).parent / BESIDE

    def scan() -> dict[str, bytes]:
        return scan_set(files, categories=access.categories, name=source, max_pixels=access.max_pixels)

    parents = [access.folder / "indexes"] if is_url(names[0]) else [beside, access.folder / "indexes"]
    for parent in parents[:-1]:
        try:
            folder = _made(parent, name, scan)
        except OSError:  # a folder that can only be read
            continue
        return Home(folder, "", f"delete {folder}; the shards are scanned again")
    folder = _made(parents[-1], name, scan)
    return Home(folder, "", f"delete {folder}; the shards are scanned again")


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


def _made(parent: Path, name: str, make: Callable[[], Mapping[str, bytes]]) -> Path:
    """Folder `name` in `parent` with the files that `make` returns, made by one process alone."""
    folder = parent / name
    if folder.is_dir():
        return folder
    parent.mkdir(parents=True, exist_ok=True)
    with locked(parent / f"{name}.lock"):
        if not folder.is_dir():
            with tempfile.TemporaryDirectory(dir=parent) as temporary:
                whole = Path(temporary) / name
                whole.mkdir()
                for file, content in make().items():
                    (whole / file).write_bytes(content)
                shutil.move(whole, folder)
    return folder
