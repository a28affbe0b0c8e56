"""What views are drawn from: which images, the sizes of their files, and when each of them is read.

m rows asked for
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64

from qdet.data.image.pipelines import Rules
from qdet.data.shards.index import Index


@runtime_checkable
class SizesByRow(Protocol):
    """Heights and widths of image files, by row: an array, or what gathers them from an index."""

    def __len__(self) -> int:
        """Images of the dataset."""
        ...

    def __getitem__(self, rows: Int64[np.ndarray, " m"], /) -> Int64[np.ndarray, "m 2"]:
        """Return the sizes of some rows."""
        ...


@dataclass(frozen=True)
class IndexedSizes:
    """The sizes that an index holds, which stays on the disk."""

    index: Index

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, rows: Int64[np.ndarray, " m"], /) -> Int64[np.ndarray, "m 2"]:
        return np.stack([self.index.height[rows], self.index.width[rows]], axis=1).astype(np.int64)


def rows_to_train(index: Index, rules: Rules) -> Int64[np.ndarray, " k"] | None:
    """Return the rows of images that a pipeline trains on; None where those are all of them."""
    if rules.without_objects and not rules.least_side:
        return None
    small = np.minimum(index.height, index.width) < rules.least_side
    rows = np.flatnonzero((rules.without_objects | (index.boxes > 0)) & ~small)
    return None if len(rows) == len(index) else rows


@dataclass(frozen=True)
class Reading:
    """When images are read: what is mixed into an image comes from its vicinity in that order."""

    positions: Int64[np.ndarray, " m"]
    """Positions in the order of those whose views are drawn."""
    at: Callable[[Int64[np.ndarray, " k"]], Int64[np.ndarray, " k"]]
    """Returns the rows at some positions."""
    samples: int
    """Positions that there are."""
