"""Samples that cannot be read: what replaces them, and how many of them a run tolerates.

The substitute is another image of the same global batch, seen in its own way, so that it fits the size that
the batch is padded to. Which one depends on the step and the place alone: ranks stay equal, and any number of
them, and of readers, gives the same batches.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from qdet.data.image.view import View
from qdet.errors import DataError
from qdet.types import Batch

T = TypeVar("T")
_SHOWN = 10


@dataclass(frozen=True)
class Candidates:
    """Possible substitutes: the images of a global batch, and which places of it are read here."""

    step: int
    """Number of the global step in its epoch."""
    rows: tuple[int, ...]
    views: Sequence[View]
    places: tuple[int, ...]
    """Places in the global batch of the samples that are read here."""

    def after(self, sample: int) -> Iterator[tuple[int, View]]:
        """Rows and views to stand in for sample number `sample` of those read here, best first."""
        place = self.places[sample]
        chance = np.random.Generator(np.random.Philox(key=np.array([self.step, place], dtype=np.uint64)))
        for other in chance.permutation(len(self.rows)).tolist():
            if other != place and self.rows[other] != self.rows[place]:
                yield self.rows[other], self.views[other]


def read_or_substitute(
    read: Callable[[int, View], T], row: int, view: View, *, candidates: Candidates | None, sample: int
) -> tuple[int, View, T, str | None]:
    """Read a sample, or else the first candidate that can be read.

    Returns:
        Row and view of what was read, what it was read into, and why it is not what was planned.

    Raises:
        DataError: It cannot be read, and there are no candidates, or none of them can be read either.
    """
    try:
        return row, view, read(row, view), None
    except DataError as error:
        if candidates is None or error.transient:  # a server that is away says nothing of its images
            raise
        first = error
    for other, its_view in candidates.after(sample):
        try:
            return other, its_view, read(other, its_view), str(first)
        except DataError as error:
            if error.transient:
                raise
            continue  # named when its own place is read
    raise DataError(f"{first}; nothing else of its global batch can be read either") from first


class BadBudget:
    """Counts the samples that could not be read, and stops the run when there are too many.

    A worker counts its own; `merge` adds what the others found.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.reasons: dict[int, str] = {}
        """Why an image could not be read, by its id."""
        self.fresh: dict[int, str] = {}
        """Those of them that have not been sent to the other workers."""

    def record(self, batch: Batch) -> Batch:
        """Print each image once that `batch` had to replace, and return the batch.

        Raises:
            DataError: There are more of them than the limit.
        """
        for missing in batch.substitutes:
            if missing.planned_id in self.reasons:
                continue
            self.reasons[missing.planned_id] = self.fresh[missing.planned_id] = missing.reason
            self._check()
            print(
                f"image {missing.image_id} stands in for {missing.planned_id}: {missing.reason}", flush=True
            )
        return batch

    def merge(self, found: Sequence[Mapping[int, str]]) -> None:
        """Add what each of all workers found since the last time.

        Raises:
            DataError: There are more images than the limit, of all workers together.
        """
        for reasons in found:
            self.reasons |= reasons
        self.fresh = {}
        self._check()

    def _check(self) -> None:
        if len(self.reasons) > self.limit:
            few = "\n  ".join([*self.reasons.values()][-_SHOWN:])
            raise DataError(
                f"{len(self.reasons)} images cannot be read, --data.max-bad allows {self.limit}; "
                f"the last of them:\n  {few}"
            )
