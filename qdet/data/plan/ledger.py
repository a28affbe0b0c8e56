"""What training received in an epoch, compared with the plan: nothing lost, nothing twice.

Every rank counts the images of its own batches. Added up over ranks, the counts must be the plan's; an image
that could not be read, and that another one stood in for, is settled too, and listed.

    n samples
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int32, Int64, Integer
from torch import Tensor

from qdet.data.plan.order import Order
from qdet.errors import DataError

_SHOWN = 5


class Ledger:
    """How often each image was received since a step, on this rank or on several."""

    def __init__(self, image_ids: Int64[np.ndarray, " n"], *, first: int = 0) -> None:
        """Count from global step `first` on; `image_ids` are those of the index, in its order."""
        self._by_id = np.argsort(image_ids, kind="stable")
        self._ids = image_ids[self._by_id]
        twice = self._ids[1:][self._ids[1:] == self._ids[:-1]]
        if len(twice):
            raise DataError(
                f"the training set has image id {twice[0]} twice, so that the two cannot be told apart; "
                "give every image an id of its own"
            )
        self.start(first)

    def start(self, first: int) -> None:
        """Forget what was counted, and count from global step `first` on."""
        self.first = first
        self.counts = torch.zeros((2, len(self._ids)), dtype=torch.int32)
        """For every row of the index: how often it was received or replaced, and how often replaced. What
        several ranks counted adds up."""

    def record(self, received: Int64[np.ndarray, " b"], replaced: Sequence[tuple[int, int]] = ()) -> None:
        """Count the images of a batch.

        Args:
            received: Their ids.
            replaced: For every place that was filled with another image than planned, the id of the planned
                one and of the one that stood in.

        Raises:
            DataError: An image is not of the training set.
        """
        settled, gone = self.counts.numpy()
        np.add.at(settled, self._rows(received), 1)
        if replaced:
            planned, instead = np.array(replaced, dtype=np.int64).T
            np.add.at(settled, self._rows(planned), 1)
            np.add.at(settled, self._rows(instead), -1)
            np.add.at(gone, self._rows(planned), 1)

    def to_tensor(self) -> Int32[Tensor, " state"]:
        """First step and counts as one tensor, for a checkpoint."""
        return torch.cat([torch.tensor([self.first], dtype=torch.int32), self.counts.ravel()])

    @classmethod
    def from_tensor(cls, image_ids: Int64[np.ndarray, " n"], *states: Int32[Tensor, " state"]) -> "Ledger":
        """Resume from the states of one rank or more, whose counts add up.

        Raises:
            DataError: The states are of another dataset, or of different steps.
        """
        firsts = {int(state[0]) for state in states}
        if len(firsts) != 1 or {len(state) for state in states} != {1 + 2 * len(image_ids)}:
            raise DataError(
                "the saved counts of received images are not of this training set, or not of one step; "
                "they belong to another checkpoint"
            )
        ledger = cls(image_ids, first=firsts.pop())
        for state in states:
            ledger.counts += state[1:].view(2, -1)
        return ledger

    def account(self, order: Order, last: int) -> "Account":
        """Compare the counts with the plan of the steps from the first counted one to `last` - 1.

        Those steps are of one epoch.
        """
        each = order.steps_per_epoch
        epoch = self.first // each
        begin, end = self.first - epoch * each, last - epoch * each
        plan = order.plan(epoch)
        settled, gone = self.counts.numpy()
        surplus = settled - np.bincount(plan.rows[begin:end].ravel(), minlength=len(settled))
        ids, at_its_end = order.index.image_id, end == each
        return Account(
            epoch=epoch,
            first=begin,
            last=end - 1,
            lost=_repeat(ids, -surplus),
            duplicated=_repeat(ids, surplus),
            dropped=tuple(ids[plan.dropped].tolist()) if at_its_end else (),
            wrapped=tuple(ids[plan.wrapped].tolist()) if at_its_end else (),
            substituted=_repeat(ids, gone),
        )

    def _rows(self, ids: Int64[np.ndarray, " b"]) -> Int64[np.ndarray, " b"]:
        place = np.minimum(np.searchsorted(self._ids, ids), len(self._ids) - 1)
        strange = ids[self._ids[place] != ids]
        if len(strange):
            raise DataError(f"training received image {strange[0]}, which is not in its index")
        return self._by_id[place]


@dataclass(frozen=True)
class Account:
    """What happened to the images of an epoch, or of the part of it that was counted, by their ids."""

    epoch: int
    first: int
    """Steps of the epoch, counted from 0, that this is about."""
    last: int
    lost: tuple[int, ...]
    """Planned and not received."""
    duplicated: tuple[int, ...]
    """Received more often than planned."""
    dropped: tuple[int, ...]
    """Left out by the plan, because they filled no batch."""
    wrapped: tuple[int, ...]
    """Planned once more, to fill the last batch."""
    substituted: tuple[int, ...]
    """Could not be read; others stood in for them."""

    def __str__(self) -> str:
        """All counts in a line, for people and for programs."""
        counts = " ".join(f"{name}={len(ids)}" for name, ids in self._images().items())
        return f"images of epoch {self.epoch}, steps {self.first} to {self.last}: {counts}"

    @property
    def as_planned(self) -> bool:
        """True if images were received as often as planned; what the plan drops or wraps is planned."""
        return not (self.lost or self.duplicated or self.substituted)

    def metrics(self) -> dict[str, int]:
        """All counts by the name of their metric."""
        return {f"data/{name}": len(ids) for name, ids in self._images().items()}

    def table(self) -> dict[str, list[int] | list[str]]:
        """Every image that is counted, with what happened to it; empty where there is none."""
        rows = [(image, what) for what, ids in self._images().items() for image in ids]
        return {"image_id": [image for image, _ in rows], "what": [what for _, what in rows]} if rows else {}

    def check(self) -> None:
        """Raise DataError if an image was lost, or received twice, without the plan or a reader saying so."""
        if self.lost or self.duplicated:
            raise DataError(
                f"{self}; {_list_ids('lost', self.lost)}; {_list_ids('duplicated', self.duplicated)}"
            )

    def _images(self) -> dict[str, tuple[int, ...]]:
        return {
            "lost": self.lost,
            "duplicated": self.duplicated,
            "dropped": self.dropped,
            "wrapped": self.wrapped,
            "substituted": self.substituted,
        }


def _repeat(ids: Int64[np.ndarray, " n"], counts: Integer[np.ndarray, " n"]) -> tuple[int, ...]:
    """Every id as often as its count says; not at all where that is negative."""
    return tuple(np.repeat(ids, np.maximum(counts, 0)).tolist())


def _list_ids(what: str, ids: Sequence[int]) -> str:
    few = ", ".join(map(str, ids[:_SHOWN])) + (", ..." if len(ids) > _SHOWN else "")
    return f"{what}: {few or 'none'}"
