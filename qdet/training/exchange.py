"""What the ranks tell each other in a step: one sum of a few numbers, before the forward pass.

Losses are divided by the objects of the whole global batch, so every step makes one collective on the host.
Whatever else the ranks must agree on travels with it:

    observer           values      totals
    LossDivisors       2           objects of the global batch: counted by the loss, and matched
    GracefulStop       1           ranks that were asked to stop
    TimeBudget         1           whether rank 0 sees that the budget of hours is used up
    EarlyStopping      0           none: all ranks see the same evaluations; it has a state
    UnreadableImages   1           images newly found unreadable
    SkippedSteps       0           none: all ranks skip the same steps; it has a state and a metric
    MeanLoss           1           loss of the previous step; of each micro-batch with `train.canonical`
    StepTimes          2 x ranks   seconds of the previous step, rank by rank: waiting for data, forward pass

To exchange more, write another `Observer` and add it to `StepExchange.observers`.
"""

from collections.abc import Callable, Sequence
from itertools import chain, islice
from typing import Any

from qdet.checkpoint import TrainState
from qdet.data.loading.substitutes import BadBudget
from qdet.job import Job
from qdet.losses import counted_objects, matched_objects
from qdet.training.distributed import World
from qdet.training.health.loss_spikes import MeanLoss
from qdet.training.health.stragglers import StepTimes
from qdet.training.health.unreadable import UnreadableImages
from qdet.training.nonfinite.skip import SkippedSteps
from qdet.training.observer import Observer
from qdet.training.stopping.early_stopping import EarlyStopping
from qdet.training.stopping.graceful_stop import GracefulStop
from qdet.training.stopping.time_budget import TimeBudget
from qdet.types import Batch


class LossDivisors(Observer):
    """The divisors of the loss.

    Gradients are averaged over ranks and micro-batches. Dividing by the objects of the global batch per rank
    and micro-batch makes their sum the loss over that batch's objects, whichever rank holds them.
    """

    def __init__(self, job: Job, world: World) -> None:
        self._job, self._ranks = job, world.size
        self._micro_batches: Sequence[Batch] = ()
        self.arguments: dict[str, float] = {}
        """`normalizer` and `matched`, as arguments of the loss."""

    def observe(self, micro_batches: Sequence[Batch]) -> None:
        """Take this rank's share of the next global batch."""
        self._micro_batches = micro_batches

    def local(self) -> Sequence[float]:
        """Return this rank's objects."""
        targets, queries = [batch.targets for batch in self._micro_batches], self._job.detector.queries
        counted = sum(counted_objects(t, queries, self._job.loss.per) for t in targets)
        return float(counted), float(sum(matched_objects(t, queries) for t in targets))

    def reduced(self, totals: Sequence[float]) -> None:
        """Compute the divisors."""
        objects, matched = totals
        passes = self._ranks * len(self._micro_batches)
        self.arguments = {"normalizer": max(objects, 1.0) / passes, "matched": matched / passes}


def sum_over_ranks(observers: Sequence[Observer], world: World) -> None:
    """Sum what `observers` contribute over all ranks, in one collective, and give each its own totals.

    All ranks pass the same kinds of observers in the same order.
    """
    local = [tuple(observer.local()) for observer in observers]
    totals = iter(world.sum(*chain.from_iterable(local)))
    for observer, values in zip(observers, local, strict=True):
        observer.reduced(list(islice(totals, len(values))))


class StepExchange:
    """The observers of one training. Constructing it is collective.

    Args:
        job: The job.
        world: The ranks.
        unreadable: The budget for unreadable images of this rank's stream.
        stop_requested: Whether this rank was asked to stop; called in every step, must not wait.
        launched: Unix time at which this launch of the run began; None: now.
    """

    def __init__(
        self,
        job: Job,
        world: World,
        *,
        unreadable: BadBudget,
        stop_requested: Callable[[], bool],
        launched: float | None = None,
    ) -> None:
        self._world = world
        self.divisors = LossDivisors(job, world)
        self.stop = GracefulStop(stop_requested)
        self.budget = TimeBudget(job.train.hours, main=world.main, launched=launched)
        self.early = EarlyStopping(job.train.early_stopping)
        self.skipped = SkippedSteps(job.train.max_skips)
        self.loss = MeanLoss(world, job.train.micro_batches)
        self.times = StepTimes(world, sharded=job.train.zero == 3)
        self.observers: tuple[Observer, ...] = (
            self.divisors,
            self.stop,
            self.budget,
            self.early,
            UnreadableImages(unreadable, world),
            self.skipped,
            self.loss,
            self.times,
        )
        """In the order of their values."""

    def sum_over_ranks(self) -> None:
        """Make the exchange of a step. Collective.

        Raises:
            DataError: On every rank: more images are unreadable than the job allows.
        """
        sum_over_ranks(self.observers, self._world)

    def state(self) -> dict[str, Any]:
        """Return the fields of `TrainState` that the observers keep. Collective."""
        return {field: value for observer in self.observers for field, value in observer.state().items()}

    def restore(self, saved: TrainState) -> None:
        """Give the observers back what `state` returned.

        Raises:
            DataError: More images were unreadable than the job now allows.
        """
        for observer in self.observers:
            observer.restore(saved)

    def metrics(self) -> dict[str, float]:
        """Return what the observers log."""
        return {name: value for observer in self.observers for name, value in observer.metrics().items()}
