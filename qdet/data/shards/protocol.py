"""What training needs to know of a dataset, however its samples are read."""

from typing import Protocol, runtime_checkable

from qdet.data.shards.categories import Categories


@runtime_checkable
class Dataset(Protocol):
    """Classes and identity of a set of images, as many as `len` says."""

    @property
    def categories(self) -> Categories:
        """Its classes."""
        ...

    @property
    def digest(self) -> str:
        """Its identity in MLflow and in checkpoints."""
        ...

    def __len__(self) -> int: ...
