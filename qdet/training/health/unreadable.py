"""Images that could not be read, counted over all ranks.

Only their number is exchanged in every step; which ones they are follows only where there are new ones.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from qdet.checkpoint import TrainState
from qdet.data.loading.substitutes import BadBudget
from qdet.masking import mask
from qdet.training.distributed import World
from qdet.training.observer import Observer


class UnreadableImages(Observer):
    """Images that could not be read, of all ranks against the one budget of the run.

    Args:
        budget: That of this rank's stream.
        world: The ranks.
    """

    def __init__(self, budget: BadBudget, world: World) -> None:
        self._budget, self._world = budget, world

    def local(self) -> Sequence[float]:
        """Return how many images this rank newly found unreadable."""
        return (float(len(self._budget.fresh)),)

    def reduced(self, totals: Sequence[float]) -> None:
        """Exchange which ones, if there are any.

        Raises:
            DataError: On every rank, if there are more than the job allows; it names the last of them.
        """
        if totals[0]:
            found = self._world.broadcast(self._world.gather(list(self._budget.fresh.items())))
            self._budget.merge([dict(reasons) for reasons in found])

    def state(self) -> Mapping[str, Any]:
        """Return why images could not be read, by id."""
        return {"unreadable": {image: mask(reason) for image, reason in self._budget.reasons.items()}}

    def restore(self, saved: TrainState) -> None:
        """Count those of before the checkpoint; raises `DataError` as `reduced` does."""
        self._budget.merge([saved.unreadable])
