"""What was received of a plan: stretches that came as planned, and the images that did not.

A stretch is some steps, and some places of the global batch in each. Its images need not be listed, for the
plan says which they are. So the counts of a rank take a few numbers, whatever the size of the dataset.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from typing import NamedTuple

import torch
from jaxtyping import Int64
from torch import Tensor

from qdet.errors import DataError

FORM = -2
"""First number of a saved ledger; before, it was the step that counts began at, never negative."""


class Stretch(NamedTuple):
    """Steps from `first` to `last` - 1 of a run, and places from `start` to `stop` - 1 in each batch."""

    first: int
    last: int
    start: int
    stop: int

    @property
    def images(self) -> int:
        """Images that it has."""
        return (self.last - self.first) * (self.stop - self.start)


@dataclass(frozen=True)
class Received:
    """What one rank or several received since a step."""

    first: int
    """The step that this is counted from."""
    stretches: tuple[Stretch, ...] = ()
    """What came as planned, but for `surplus`."""
    surplus: Mapping[int, int] = field(default_factory=dict)
    """By image id: how much more often it was received or replaced than `stretches` says; never 0."""
    replaced: Mapping[int, int] = field(default_factory=dict)
    """By image id: how often another one stood in for it."""

    @property
    def images(self) -> int:
        """Images that were received or replaced."""
        return sum(stretch.images for stretch in self.stretches) + sum(self.surplus.values())

    def unlike_plan(self, first: int, last: int, batch_size: int) -> Iterator[tuple[Stretch, int]]:
        """Yield what `stretches` have more or less often than once in the steps from `first` to `last` - 1.

        Each comes with how often it is there too much. What they have in other steps is too much as well.
        """
        planned = Stretch(first, last, 0, batch_size)
        for begin, end in _between(s[:2] for s in (*self.stretches, planned)):
            here = [s for s in self.stretches if s.first <= begin < s.last]
            due = first <= begin < last
            for start, stop in _between(s[2:] for s in (*here, planned)):
                found = sum(s.start <= start < s.stop for s in here)
                if found != due:
                    yield Stretch(begin, end, start, stop), found - due

    def to_tensor(self, samples: int) -> Int64[Tensor, " state"]:
        """Return it as a tensor for a checkpoint; `samples` are those of the dataset."""
        counts = [
            number for pairs in (self.surplus, self.replaced) for pair in pairs.items() for number in pair
        ]
        sizes = (len(self.stretches), len(self.surplus), len(self.replaced))
        places = [number for stretch in self.stretches for number in stretch]
        return torch.tensor([FORM, samples, self.first, *sizes, *places, *counts], dtype=torch.int64)

    @classmethod
    def from_tensor(cls, state: Int64[Tensor, " state"], samples: int) -> "Received":
        """Read what `to_tensor` wrote, and zeros after it.

        Raises:
            DataError: It is of another dataset, or something else.
        """
        numbers = iter(state.tolist())
        form, found, first, *sizes = (next(numbers, -1) for _ in range(6))
        fits = (form, found) == (FORM, samples) and min(first, *sizes) >= 0
        if not fits or len(state) < 6 + 4 * sizes[0] + 2 * sizes[1] + 2 * sizes[2]:
            raise _strange()
        stretches = tuple(Stretch(*(next(numbers) for _ in range(4))) for _ in range(sizes[0]))
        surplus, replaced = ({next(numbers): next(numbers) for _ in range(size)} for size in sizes[1:])
        return cls(first, stretches, surplus, replaced)


def merge(parts: Sequence[Received]) -> Received:
    """Add up what several ranks received.

    Raises:
        DataError: There are none, or they are not counted from one step.
    """
    if len({part.first for part in parts}) != 1:
        raise _strange()
    surplus, replaced = Counter[int](), Counter[int]()
    for part in parts:
        surplus.update(part.surplus)
        replaced.update(part.replaced)
    stretches = _join(stretch for part in parts for stretch in part.stretches if stretch.images)
    return Received(parts[0].first, stretches, {i: n for i, n in surplus.items() if n}, dict(replaced))


def _strange() -> DataError:
    return DataError(
        "the saved counts of received images are not of this training set, or not of one step; "
        "they belong to another checkpoint"
    )


def _join(stretches: Iterable[Stretch]) -> tuple[Stretch, ...]:
    """Join stretches of the same steps whose places adjoin, and those of the same places whose steps do."""
    joined: list[Stretch] = []
    for (first, last), same in groupby(sorted(stretches), key=lambda s: s[:2]):
        joined += [Stretch(first, last, *places) for places in _chain(s[2:] for s in same)]
    whole: list[Stretch] = []
    for places, same in groupby(sorted(joined, key=lambda s: (s[2:], s)), key=lambda s: s[2:]):
        whole += [Stretch(*steps, *places) for steps in _chain(s[:2] for s in same)]
    return tuple(sorted(whole))


def _chain(spans: Iterable[tuple[int, ...]]) -> list[tuple[int, int]]:
    """Join sorted spans of which one begins where another ends."""
    chained: list[tuple[int, int]] = []
    for start, stop in spans:
        if chained and chained[-1][1] == start:
            chained[-1] = (chained[-1][0], stop)
        else:
            chained.append((start, stop))
    return chained


def _between(spans: Iterable[tuple[int, ...]]) -> Iterator[tuple[int, int]]:
    """Cut the numbers from the first span to the last at every beginning and end of one."""
    return pairwise(sorted({end for span in spans for end in span}))
