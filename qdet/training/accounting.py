"""A check, at the end of every epoch, that all ranks together received the planned images."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Int32, Int64
from torch import Tensor

from qdet.data.plan.ledger import Ledger
from qdet.data.plan.order import Order
from qdet.tracking import Tracker
from qdet.training.distributed import World
from qdet.types import Batch


class Accounting:
    """Counts the images of this rank's batches, and compares the counts of all ranks with the plan.

    A run that resumes from a checkpoint without counts accounts for the steps since then.
    """

    def __init__(self, order: Order, world: World, tracker: Tracker, *, step: int) -> None:
        self.order, self.world, self.tracker = order, world, tracker
        self.ledger = Ledger(order.index.image_id, first=step)

    def record(self, micro_batches: Sequence[Batch]) -> None:
        """Count the images that this rank trains on at a step."""
        for batch in micro_batches:
            replaced = [(image.planned_id, image.image_id) for image in batch.substitutes]
            self.ledger.record(batch.image_ids.numpy(), replaced)

    def settle(self, step: int) -> None:
        """Compare the counts with the plan, log the result, and count anew from `step` on. Collective.

        Raises:
            DataError: On every rank: images were lost or received twice.
        """
        total = Ledger(self.order.index.image_id, first=self.ledger.first)
        total.counts = self.world.total(self.ledger.counts)
        if total.first < step:
            self.world.on_main(lambda: self._report(total, step))
        self.ledger.start(step)

    def state(self) -> Int32[Tensor, " state"]:
        """Return first step and counts of this rank, for a checkpoint."""
        return self.ledger.to_tensor()

    def load(self, *states: Int32[Tensor, " state"]) -> None:
        """Restore the `state()` of any number of ranks; every rank gets all of them."""
        self.ledger = Ledger.from_tensor(self.order.index.image_id, *states)
        if not self.world.main:  # counts are summed over ranks: one rank takes over the old ones
            self.ledger.start(self.ledger.first)

    def _report(self, total: Ledger, step: int) -> None:
        account = total.account(self.order, step)
        if not account.as_planned:
            print(account, flush=True)
        received = {"data/received": int(total.counts[0].sum())}  # says that this epoch was accounted for
        self.tracker.metrics(received | _nonzero(account.metrics()), step)
        if images := account.table():
            self.tracker.table(images, f"data/epoch_{account.epoch:04d}_to_{account.last}.json")
        account.check()


class ImageCounts:
    """Counts the images of batches that follow no plan, and sums the counts of all ranks."""

    def __init__(self, steps_per_epoch: int, world: World, tracker: Tracker, *, step: int) -> None:
        self.steps_per_epoch, self.world, self.tracker = steps_per_epoch, world, tracker
        self._start(step)

    def record(self, micro_batches: Sequence[Batch]) -> None:
        """Count the images that this rank trains on at a step, and how many substitute for others."""
        for batch in micro_batches:
            self._counts += torch.tensor([len(batch), len(batch.substitutes)])

    def settle(self, step: int) -> None:
        """Print and log the counts, and count anew from `step` on. Collective."""
        received, substituted = self.world.total(self._counts).tolist()
        if self.world.main and self._first < step:
            epoch = self._first // self.steps_per_epoch
            begin, end = self._first - epoch * self.steps_per_epoch, step - epoch * self.steps_per_epoch
            print(
                f"images of epoch {epoch}, steps {begin} to {end - 1}: received={received} "
                f"substituted={substituted}; without a plan, lost and repeated images are unknown",
                flush=True,
            )
            counts = {"data/received": received, "data/substituted": substituted}
            self.tracker.metrics(_nonzero(counts), step)
        self._start(step)

    def state(self) -> Int64[Tensor, " 3"]:
        """Return first step and counts of this rank, for a checkpoint."""
        return torch.cat([torch.tensor([self._first]), self._counts])

    def load(self, *states: Int64[Tensor, " 3"]) -> None:
        """Restore the `state()` of any number of ranks; every rank gets all of them."""
        self._start(int(states[0][0]))
        if self.world.main:  # counts are summed over ranks: one rank takes over the old ones
            self._counts = torch.stack(states)[:, 1:].sum(0)

    def _start(self, step: int) -> None:
        self._first = step
        self._counts = torch.zeros(2, dtype=torch.int64)
        """Images received, and how many of them substitute for others."""


def _nonzero(counts: Mapping[str, int]) -> dict[str, int]:
    """Leave out what did not happen: a chart of zeros only hides others."""
    return {name: count for name, count in counts.items() if count}
