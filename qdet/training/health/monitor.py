"""What a training notices of its own faults: who is slow, what spikes, where it stands, what takes part.

A step already makes one collective on the host, for the divisors of its losses. What every worker saw of the
step before travels with it: `told` says it, `heard` takes in what all said together.
"""

import math
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from torch import nn

from qdet.job import Job
from qdet.training.distributed import World
from qdet.training.health.loss_spikes import HISTORY, LossSpikes
from qdet.training.health.stragglers import PARTS, Stragglers, line
from qdet.training.health.unused_parameters import Participation
from qdet.training.health.watchdog import Watchdog

Item = TypeVar("Item")


@dataclass(frozen=True)
class _Seen:
    """What this worker saw of a step."""

    step: int
    loss: float
    waited: float
    forward: float


class Faults:
    """The watchdog of this worker, which watches inside a `with`, and what all workers know of each other.

    Args:
        job: What is trained.
        world: The workers.
        module: The detector.
        losses: Of the last steps, where the run goes on.
    """

    def __init__(self, job: Job, world: World, module: nn.Module, losses: Sequence[float] = ()) -> None:
        self.world, self._sharded = world, job.train.zero == 3
        self.watchdog = Watchdog(rank=world.rank, limit=job.train.hang_after)
        self.participation = Participation(module, rank=world.rank, must=self._sharded)
        self._hosts: list[str] = world.broadcast(world.gather(socket.gethostname()))
        self._stragglers, self._losses, self._spikes = Stragglers(), LossSpikes(losses), 0
        self._waited = self._forward = 0.0
        self._seen: _Seen | None = None

    def __enter__(self) -> "Faults":
        self.watchdog.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.watchdog.__exit__()
        self.participation.close()

    def waiting(self, items: Iterable[Item]) -> Iterator[Item]:
        """Pass `items` on, noting how long each is waited for."""
        source = iter(items)
        while True:
            self.watchdog.now("waiting for data")
            asked = time.perf_counter()
            try:
                item = next(source)
            except StopIteration:
                return
            self._waited = time.perf_counter() - asked
            yield item

    @contextmanager
    def forward(self) -> Iterator[None]:
        """Note how long the forward pass and the loss inside a `with` take."""
        self.watchdog.now("forward pass")
        started = time.perf_counter()
        yield
        self._forward += time.perf_counter() - started

    def evaluating(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        """Return `forward`, of which the watchdog takes every call as a sign of life."""

        def watched(*inputs: Any) -> Any:
            self.watchdog.now("evaluation")
            self.watchdog.beat()
            return forward(*inputs)

        return watched

    def step_done(self, step: int, loss: float) -> None:
        """Note that a step was made, with this worker's loss; NaN where it was skipped."""
        self._seen = _Seen(step, loss, self._waited, self._forward)
        self._forward = 0.0
        self.watchdog.beat()

    def told(self) -> list[float]:
        """Return what this worker says of the step before, to be summed over all workers."""
        self.watchdog.now("collective: objects")
        seen = self._seen or _Seen(0, math.nan, 0.0, 0.0)
        times = np.zeros((self.world.size, len(PARTS)))
        times[self.world.rank] = seen.waited, seen.forward
        return [seen.loss, *times.flatten().tolist()]

    def heard(self, totals: Sequence[float]) -> None:
        """Take in the sums of what all workers told; rank 0 says what stands out."""
        if self._seen is None:
            return
        loss, *times = totals
        self._look_for_stragglers(np.array(times).reshape(self.world.size, len(PARTS)))
        if math.isfinite(loss):
            self._look_for_spikes(self._seen.step, loss / self.world.size)

    def losses(self) -> tuple[float, ...]:
        """Return the losses that the next are compared with, with that of the step just made. Collective."""
        loss = math.nan if self._seen is None else self.world.sum(self._seen.loss)[0] / self.world.size
        return (*self._losses.last, loss)[-HISTORY:] if math.isfinite(loss) else self._losses.last

    def metrics(self) -> dict[str, float]:
        """Return what was counted since the last call."""
        counted, self._spikes = self._spikes, 0
        return {"train/spikes": float(counted)}

    def _look_for_stragglers(self, times: np.ndarray) -> None:
        if self._sharded:  # its forward passes wait for each other: only the shortest waited for nobody
            times[:, 1] = times[:, 1].min()
        for straggler in self._stragglers.add(times):
            if self.world.main:
                print(line(straggler, self._hosts), flush=True)

    def _look_for_spikes(self, step: int, loss: float) -> None:
        distance = self._losses.add(loss)
        if distance is None:
            return
        self._spikes += 1
        if self.world.main:
            print(
                f"the loss of step {step} is {loss:.4g}: {distance:.1f} robust standard deviations above "
                f"those of the {HISTORY} steps before",
                flush=True,
            )
