"""Images that could not be read, counted over all ranks against the one budget of the run.

How many new ones there are travels with a collective that every step makes anyway. Only where there are some
do the ranks tell each other which.
"""

from qdet.data.loading.substitutes import BadBudget
from qdet.training.distributed import World


class Unreadable:
    """What all ranks together could not read.

    Args:
        budget: Of this rank's stream; it learns of what others could not read.
        world: The ranks.
    """

    def __init__(self, budget: BadBudget, world: World) -> None:
        self.budget, self.world = budget, world

    def told(self) -> float:
        """Return how many images this rank found unreadable since it last told."""
        return float(len(self.budget.fresh))

    def heard(self, total: float) -> None:
        """Take in how many all ranks told of; collective where there are any.

        Raises:
            DataError: On every rank, with the names of the last, if there are more than the job allows.
        """
        if total:
            self.budget.learn(self.world.broadcast(self.world.gather(dict(self.budget.fresh))))
