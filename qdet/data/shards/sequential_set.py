"""A dataset that is read from front to back: its shards, classes and size, known before reading starts."""

import hashlib
import json
from dataclasses import dataclass

from qdet.data.shards.categories import Categories
from qdet.data.shards.locate import Access, DatasetInfo, locate
from qdet.data.shards.manifest import Listed
from qdet.errors import ConfigError


@dataclass(frozen=True)
class SequentialSet:
    """Shards without random access."""

    source: str
    shards: tuple[Listed, ...]
    categories: Categories
    digest: str
    """Identity of the dataset or, without a manifest, of the names of its shards and classes."""
    images: int
    """As many as an epoch has."""
    access: Access

    @classmethod
    def open(cls, source: str, access: Access, *, images: int | None = None) -> "SequentialSet":
        """Look at a dataset; see `locate` and `from_info` for arguments and errors."""
        return cls.from_info(locate(source, access, commands=True), access, images=images)

    @classmethod
    def from_info(cls, info: DatasetInfo, access: Access, *, images: int | None = None) -> "SequentialSet":
        """Check that all is known that reading needs.

        Args:
            info: What `locate` found.
            access: How shards are opened.
            images: As many as make an epoch; by default those that the manifest counts.

        Raises:
            ConfigError: The dataset does not name its classes or its size, and neither does the job.
        """
        if info.categories is None:
            raise ConfigError(
                f"--data.train {info.address} does not say what its classes are called before it is read; "
                "give a COCO annotation file, or its `categories` alone, with --data.categories"
            )
        count = images or info.images
        if count is None:
            raise ConfigError(
                f"--data.train {info.address} does not say how many images it has before it is read; say "
                "with --data.samples how many make an epoch"
            )
        return cls(
            source=info.address,
            shards=info.shards,
            categories=info.categories,
            digest=info.digest or _digest_of_names(info.shards, info.categories),
            images=count,
            access=access,
        )

    def __len__(self) -> int:
        return self.images


def _digest_of_names(shards: tuple[Listed, ...], categories: Categories) -> str:
    identity = [[shard.name for shard in shards], categories.to_coco()]
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()
