"""The ledger as it was first written: two counts for every image of the dataset, on every rank.

Its verdicts are easy to follow, and its saved form is that of the checkpoints of earlier versions.
"""

from collections.abc import Sequence

import numpy as np
import torch

from qdet.data.plan.account import Account
from qdet.data.plan.order import Order


class LiteralLedger:
    """Counts of every row; those of several ranks add up."""

    def __init__(self, image_ids: np.ndarray, *, first: int = 0) -> None:
        self.ids, self.first = image_ids, first
        self.row_of = {image: row for row, image in enumerate(image_ids.tolist())}
        self.counts = torch.zeros((2, len(image_ids)), dtype=torch.int32)

    def record(self, received: Sequence[int], replaced: Sequence[tuple[int, int]] = ()) -> None:
        """Count images, and those that others stood in for."""
        for image in received:
            self.counts[0, self.row_of[image]] += 1
        for planned, instead in replaced:
            self.counts[0, self.row_of[planned]] += 1
            self.counts[0, self.row_of[instead]] -= 1
            self.counts[1, self.row_of[planned]] += 1

    def to_tensor(self) -> torch.Tensor:
        """Return first step and counts, as they were saved."""
        return torch.cat([torch.tensor([self.first], dtype=torch.int32), self.counts.ravel()])

    def account(self, order: Order, last: int) -> Account:
        """Compare the counts with the whole plan of their epoch."""
        each = order.steps_per_epoch
        epoch = self.first // each
        begin, end = self.first - epoch * each, last - epoch * each
        plan = order.plan(epoch)
        settled, gone = self.counts.numpy()
        rows = plan.whole().rows[begin:end]
        surplus = settled - np.bincount(rows.ravel(), minlength=len(settled))
        return Account(
            epoch=epoch,
            first=begin,
            last=end - 1,
            lost=self._repeat(-surplus),
            duplicated=self._repeat(surplus),
            dropped=tuple(self.ids[plan.dropped].tolist()) if end == each else (),
            wrapped=tuple(self.ids[plan.wrapped].tolist()) if end == each else (),
            substituted=self._repeat(gone),
        )

    def _repeat(self, counts: np.ndarray) -> tuple[int, ...]:
        return tuple(np.repeat(self.ids, np.maximum(counts, 0)).tolist())
