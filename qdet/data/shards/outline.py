"""What is known of a dataset before any of its shards is opened: from its manifest, or from what a job says.

That is little to read, also from behind a URL: enough to see that it is there, and that a job fits it.
"""

import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from qdet.data.files.download import Absent, names_in, read_bytes, size_of
from qdet.data.files.pipes import allowed_words
from qdet.data.shards.categories import Categories
from qdet.data.shards.index_foreign import named_categories
from qdet.data.shards.locate import Access
from qdet.data.shards.manifest import NAME, Listed, parse_manifest
from qdet.errors import ConfigError, DataError
from qdet.storage.urls import checked, expand, is_pattern, is_pipe, is_url, join


@dataclass(frozen=True)
class Outline:
    """A dataset from the outside."""

    source: str
    """The address it was given by."""
    shards: tuple[Listed, ...]
    listed: bool
    """Whether a manifest lists them, so that `digest` and `images` are known."""
    digest: str
    """Identity of the dataset or, without a manifest, of the names of its shards."""
    categories: Categories | None
    images: int | None

    @classmethod
    def of(cls, source: str, access: Access) -> "Outline":
        """Read the manifest of a dataset, or list its shards where there is none.

        Raises:
            ConfigError: It names a command that is not allowed.
            DataError: It is not there, or cannot be reached.
        """
        if is_pattern(source):
            names = expand(source, lambda name: _command_or_place(name, access))
            return _unlisted(source, names, access)
        address = checked(source)
        with suppress(Absent):
            return _listed(address)
        names = [join(address, name) for name in names_in(address) if name.endswith(".tar")]
        if not names:
            raise DataError(
                f"{address} holds no shards that are known of (no {NAME}); check the address, or name "
                f"foreign ones by a pattern such as {address}/train-{{000000..000146}}.tar"
            )
        return _unlisted(address, names, access)

    def reach(self) -> None:
        """Raise DataError unless the first shard is where its name says; commands are not run for that."""
        first = self.shards[0].name
        if is_url(first):
            size_of(first)
        elif not is_pipe(first) and not Path(first).is_file():
            raise DataError(f"{first} is not there; complete the copy")


@dataclass(frozen=True)
class SequentialSet:
    """A dataset that is read from front to back."""

    source: str
    shards: tuple[Listed, ...]
    categories: Categories
    digest: str
    images: int
    """As many as an epoch has."""
    access: Access

    @classmethod
    def open(cls, source: str, access: Access, *, images: int | None = None) -> "SequentialSet":
        """Learn what has to be known before reading starts; ConfigError where the job has to say it."""
        outline = Outline.of(source, access)
        if outline.categories is None:
            raise ConfigError(
                f"--data.train {source} does not say what its classes are called before it is read; give a "
                "COCO annotation file, or its `categories` alone, with --data.categories"
            )
        if images is None and outline.images is None:
            raise ConfigError(
                f"--data.train {source} does not say how many images it has before it is read; say with "
                "--data.samples how many make an epoch"
            )
        return cls(
            source=outline.source,
            shards=outline.shards,
            categories=outline.categories,
            digest=outline.digest,
            images=images or outline.images or 0,
            access=access,
        )

    def __len__(self) -> int:
        return self.images


def _command_or_place(name: str, access: Access) -> str:
    if not is_pipe(name):
        return checked(name)
    allowed_words(name, access.allow_pipes)
    return name


def _listed(address: str) -> Outline:
    where = join(address, NAME)
    if is_url(address):
        data = read_bytes(where)
    else:
        try:
            data = Path(where).read_bytes()
        except FileNotFoundError as error:
            raise Absent(f"{where} is not there") from error
        except OSError as error:
            raise DataError(f"{where} cannot be read: {error.strerror or error}") from error
    manifest = parse_manifest(data, where=where)
    shards = manifest["shardlist"]
    return Outline(
        source=address,
        shards=tuple(Listed(join(address, s["url"]), s["filesize"], s.get("sha256")) for s in shards),
        listed=True,
        digest=manifest["digest"],
        categories=Categories.from_coco(manifest["categories"], where=where),
        images=sum(shard["nsamples"] for shard in shards),
    )


def _unlisted(source: str, names: list[str], access: Access) -> Outline:
    categories = named_categories(access.categories) if access.categories else None
    identity = [names, categories.to_coco() if categories else None]
    return Outline(
        source=source,
        shards=tuple(map(Listed, names)),
        listed=False,
        digest=hashlib.sha256(json.dumps(identity).encode()).hexdigest(),
        categories=categories,
        images=None,
    )
