"""A check, at the end of every epoch, that all ranks together received the planned images."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Int64, Integer
from torch import Tensor

from qdet.data.plan.ledger import Ledger, account, check_distinct, read_states
from qdet.data.plan.order import Order
from qdet.data.plan.received import Received, merge
from qdet.tracking import Tracker
from qdet.training.distributed import World
from qdet.types import Batch


class Accounting:
    """Counts the images of this rank's batches, and compares what all ranks received with the plan.

    A run that resumes from a checkpoint without counts accounts for the steps since then. Constructing it is
    collective.

    Raises:
        DataError: On every rank: two images of the training set have the same id.
    """

    def __init__(self, order: Order, world: World, tracker: Tracker, *, step: int) -> None:
        self.order, self.world, self.tracker, self._step = order, world, tracker, step
        world.on_main(lambda: check_distinct(order.index.image_id))
        self.ledger = Ledger(order, first=step, rank=world.rank, world_size=world.size)

    def record(self, micro_batches: Sequence[Batch]) -> None:
        """Count the images that this rank trains on at a step."""
        replaced = [(image.planned_id, image.image_id) for b in micro_batches for image in b.substitutes]
        self.ledger.record(np.concatenate([batch.image_ids.numpy() for batch in micro_batches]), replaced)

    def settle(self, step: int) -> None:
        """Compare the counts with the plan, log the result, and count anew from `step` on. Collective.

        Raises:
            DataError: On every rank: images were lost or received twice.
        """
        mine, samples = self.ledger.received, len(self.order.index)
        parts = self.world.gather_arrays({"state": mine.to_tensor(samples).numpy()})
        received = [Received.from_tensor(torch.from_numpy(part["state"]), samples) for part in parts]
        if mine.first < step:
            self.world.on_main(lambda: self._report(merge(received), step))
        self.ledger.start(step)

    def state(self) -> Int64[Tensor, " state"]:
        """Return what this rank counted, for a checkpoint: equally long on all ranks. Collective."""
        state, size = self.ledger.received.to_tensor(len(self.order.index)), self.world.size
        lengths = self.world.sum(*(float(len(state)) * (rank == self.world.rank) for rank in range(size)))
        return torch.nn.functional.pad(state, (0, int(max(lengths)) - len(state)))

    def load(self, states: Iterable[Integer[Tensor, " _"]]) -> None:
        """Restore the `state()` of all ranks of a checkpoint; without any, do nothing. Collective.

        Only rank 0 reads `states`, one by one. Counts are added up over ranks: it takes over the old ones.
        """
        read: list[Received] = []

        def first() -> int | None:
            before = read_states(states, self.order, self._step)
            read.extend([] if before is None else [before])
            return None if before is None else before.first

        counted_from = self.world.on_main(first)
        if counted_from is not None:
            self.ledger.resume(read[0] if self.world.main else Received(counted_from), self._step)

    def _report(self, total: Received, step: int) -> None:
        found = account(total, self.order, step)
        if not found.as_planned:
            print(found, flush=True)
        received = {"data/received": total.images}  # says that this epoch was accounted for
        self.tracker.metrics(received | _nonzero(found.metrics()), step)
        if images := found.table():
            self.tracker.table(images, f"data/epoch_{found.epoch:04d}_to_{found.last}.json")
        found.check()


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

    def load(self, states: Iterable[Int64[Tensor, " 3"]]) -> None:
        """Restore the `state()` of any number of ranks; every rank gets all of them, or none."""
        if not (saved := list(states)):
            return
        self._start(int(saved[0][0]))
        if self.world.main:  # counts are summed over ranks: one rank takes over the old ones
            self._counts = torch.stack(saved)[:, 1:].sum(0)

    def _start(self, step: int) -> None:
        self._first = step
        self._counts = torch.zeros(2, dtype=torch.int64)
        """Images received, and how many of them substitute for others."""


def _nonzero(counts: Mapping[str, int]) -> dict[str, int]:
    """Leave out what did not happen: a chart of zeros only hides others."""
    return {name: count for name, count in counts.items() if count}
