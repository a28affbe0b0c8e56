"""What all ranks together received of a stream without a plan: counts, held against nothing.

It has the methods of `Accounting`, and never says that nothing was lost.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Int64
from torch import Tensor

from qdet.tracking import Tracker
from qdet.training.distributed import World
from qdet.types import Batch


class Receipts:
    """Counts the images of this rank's batches, and adds up those of all ranks."""

    def __init__(self, steps_per_epoch: int, world: World, tracker: Tracker, *, step: int) -> None:
        self.steps_per_epoch, self.world, self.tracker = steps_per_epoch, world, tracker
        self._start(step)

    def record(self, micro_batches: Sequence[Batch]) -> None:
        """Count the images that this rank trains on at a step, and those of them that stand in for others."""
        for batch in micro_batches:
            self._counts += torch.tensor([len(batch), len(batch.substitutes)])

    def settle(self, step: int) -> None:
        """Say and log what was counted, and count anew from `step` on. Collective."""
        received, substituted = self.world.total(self._counts).tolist()
        if self.world.main and self._first < step:
            epoch = self._first // self.steps_per_epoch
            begin, end = self._first - epoch * self.steps_per_epoch, step - epoch * self.steps_per_epoch
            print(
                f"images of epoch {epoch}, steps {begin} to {end - 1}: received={received} "
                f"substituted={substituted}; without a plan nobody knows which were lost or came twice",
                flush=True,
            )
            self.tracker.metrics({"data/received": received, "data/substituted": substituted}, step)
        self._start(step)

    def state(self) -> Int64[Tensor, " 3"]:
        """First step and counts of this rank, for a checkpoint."""
        return torch.cat([torch.tensor([self._first]), self._counts])

    def load(self, *states: Int64[Tensor, " 3"]) -> None:
        """Go on from the `state()` of any number of ranks; every rank is given all of them."""
        self._start(int(states[0][0]))
        if self.world.main:  # counts of all ranks add up: one of them takes over the old ones
            self._counts = torch.stack(states)[:, 1:].sum(0)

    def _start(self, step: int) -> None:
        self._first = step
        self._counts = torch.zeros(2, dtype=torch.int64)
        """Images that were received, and how many of them stand in for others."""
