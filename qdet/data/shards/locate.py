"""Find a dataset by its address, and learn what can be known of it before any of its shards is opened.

That is little to read, also from behind a URL: the manifest where there is one, else the names of the shards.
`qdet.data.shards.index_location` finds or makes the index that reading by offset needs.
"""

import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from qdet.data.files.cached_files import CachedShards
from qdet.data.files.download import Absent, names_in, read_bytes, size_of
from qdet.data.files.local_files import ShardFiles
from qdet.data.files.node_cache import NodeCache, RemoteShard
from qdet.data.files.pipes import allowed_words
from qdet.data.shards.categories import Categories, named_categories
from qdet.data.shards.manifest import NAME, Listed, objects_in, parse_manifest
from qdet.errors import DataError
from qdet.masking import mask
from qdet.storage import surroundings
from qdet.storage.urls import checked, expand, is_below, is_pattern, is_pipe, is_url, join

UNFINISHED = ".parts"
"""Folder that a conversion keeps until it is finished."""


DEMO = "/data/demo/shards/train", "/data/demo/shards/val"
"""How addresses of the demo's shards end."""


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
    max_bad: int = 0
    """Samples of third-party shards that may be dropped because they cannot be used."""
    allow_pipes: tuple[str, ...] = ()
    """Commands that may be run where shards are read from front to back."""
    allow_hosts: tuple[str, ...] = ()
    """Hosts and buckets beside its own that a manifest behind a URL may name."""

    @property
    def folder(self) -> Path:
        """The cache's folder on this machine."""
        return surroundings.expand(self.cache)

    def name(self, base: str, listed: str) -> str:
        """Return where a shard lies that a manifest in `base` lists.

        Raises:
            DataError: The manifest is behind a URL, and names something elsewhere that is not allowed.
        """
        name = join(base, listed)
        if is_url(base) and not is_below(base, name):
            host = urlsplit(name).hostname if is_url(name) else None
            if host is None or host not in self.allow_hosts:
                there = f"; --data.allow-hosts {host} allows it" if host else ", on this machine"
                raise DataError(f"{base}: its manifest names {mask(name)}, which is outside of it{there}")
        return name

    def files(self, shards: Sequence[Mapping[str, Any]], base: str) -> ShardFiles | CachedShards:
        """Shards that a manifest in `base` lists, for reading."""
        names = [self.name(base, shard["url"]) for shard in shards]
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
class DatasetInfo:
    """A dataset from the outside; None is what only reading its shards will show."""

    address: str
    """Folder, URL or pattern; a file:// URL of a folder as its path."""
    shards: tuple[Listed, ...]
    categories: Categories | None = None
    digest: str | None = None
    """Identity of the dataset."""
    images: int | None = None
    objects: int | None = None
    """Objects that are no crowds."""
    manifest: Mapping[str, Any] | None = field(default=None, repr=False)
    """The parsed manifest.json, where one lists the shards."""
    manifest_bytes: bytes = field(default=b"", repr=False)
    """That file as it was read."""

    def check_reachable(self) -> None:
        """Raise DataError unless the first shard is where its name says; commands are not run for that."""
        first = self.shards[0].name
        if is_url(first):
            size_of(first)
        elif not is_pipe(first) and not Path(first).is_file():
            raise DataError(f"{first} is not there; complete the copy")


def locate(address: str, access: Access, *, commands: bool = False) -> DatasetInfo:
    """Read the manifest of a dataset, or list its shards where there is none.

    Args:
        address: A folder, a URL, or a pattern of tars; see `qdet.storage.urls`.
        access: Names the classes of shards without a manifest, and the commands that may be run.
        commands: Whether `pipe:` addresses that `access` allows are taken; reading by offset has no use for
            them.

    Raises:
        ConfigError: It names a command that is not allowed.
        DataError: It is not there, or cannot be reached.
    """
    if is_pattern(address):
        if not commands:
            return _from_names(address, expand(address), access)
        return _from_names(address, expand(address, lambda name: _check_command(name, access)), access)
    folder = checked(address)
    with suppress(Absent):
        return _from_manifest(folder, _read_manifest(folder), access)
    names = names_in(folder)
    if UNFINISHED in names:
        raise DataError(
            f"{folder} holds a conversion that did not finish (no {NAME}); run the same command again"
        )
    tars = [join(folder, name) for name in names if name.endswith(".tar")]
    if not tars:
        if parts := _parts_of(folder):
            raise DataError(
                f"{folder} holds the shards of {' and '.join(parts)}: give {join(folder, parts[0])}"
            )
        raise DataError(f"{folder} holds no shards (no {NAME}, no tars). {_how_to_make(folder)}")
    return _from_names(folder, tars, access)


def _how_to_make(folder: str) -> str:
    """Say where the shards of an empty folder come from."""
    if f"/{folder}".endswith(DEMO):
        return "Those of the demo are rendered by make demo, or qdet demo where qdet is installed"
    return (
        "Check the address, make shards with python -m data_prep.coco_to_shards --coco DIR --split SPLIT "
        f"--out {shlex.quote(folder)}, or name third-party ones by a pattern such as "
        f"{folder}/train-{{000000..000146}}.tar"
    )


def _parts_of(folder: str) -> list[str]:
    """Return the folders in a local one that hold shards."""
    here = Path(folder)
    found = [part.name for part in here.iterdir() if (part / NAME).is_file()] if here.is_dir() else []
    return sorted(found, key=lambda name: (name != "train", name))


def _check_command(name: str, access: Access) -> str:
    if not is_pipe(name):
        return checked(name)
    allowed_words(name, access.allow_pipes)
    return name


def _read_manifest(folder: str) -> bytes:
    """Read manifest.json in a folder or behind a URL; `Absent` where there is none."""
    where = join(folder, NAME)
    if is_url(folder):
        return read_bytes(where)
    try:
        return Path(where).read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise Absent(f"{where} is not there") from error
    except OSError as error:
        raise DataError(f"{where} cannot be read: {error.strerror or error}") from error


def _from_manifest(folder: str, data: bytes, access: Access) -> DatasetInfo:
    where = join(folder, NAME)
    manifest = parse_manifest(data, where=where)
    shards = manifest["shardlist"]
    return DatasetInfo(
        address=folder,
        shards=tuple(Listed(access.name(folder, s["url"]), s["filesize"], s.get("sha256")) for s in shards),
        categories=Categories.from_coco(manifest["categories"], where=where),
        digest=manifest["digest"],
        images=sum(shard["nsamples"] for shard in shards),
        objects=objects_in(manifest),
        manifest=manifest,
        manifest_bytes=data,
    )


def _refuse_folders(address: str, names: Sequence[str]) -> None:
    """Raise DataError where a pattern names a folder on this machine."""
    here = (name for name in names if not is_url(name) and not is_pipe(name))
    folder = next((name for name in here if Path(name).is_dir()), None)
    if folder is not None:
        tars = f"{folder.rstrip('/')}/NAME-{{000000..000003}}.tar"
        raise DataError(
            f"{address}: {folder} is a folder, and a pattern names tars. Give one folder, or name the tars "
            f"of all of them, as in {tars}::OTHER/{Path(tars).name} (images then need ids that differ)"
        )


def _from_names(address: str, names: Sequence[str], access: Access) -> DatasetInfo:
    _refuse_folders(address, names)
    categories = named_categories(access.categories) if access.categories else None
    return DatasetInfo(address, tuple(map(Listed, names)), categories)
