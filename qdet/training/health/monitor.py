"""What one rank measures of itself: where it stands, what its steps take, which parameters learn."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from torch import nn

from qdet.job import Job
from qdet.training.distributed import World
from qdet.training.health.unused_parameters import UnusedParameters
from qdet.training.health.watchdog import Watchdog

Item = TypeVar("Item")


class HealthMonitor:
    """The watchdog of this rank, which watches inside a `with`, and a stopwatch for its steps."""

    def __init__(self, job: Job, world: World, module: nn.Module) -> None:
        self.watchdog = Watchdog(rank=world.rank, limit=job.train.hang_after)
        self.unused_parameters = UnusedParameters(
            module, rank=world.rank, required=job.train.zero == 3 and world.size > 1
        )
        self._waited = self._forward = 0.0

    def __enter__(self) -> "HealthMonitor":
        self.watchdog.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.watchdog.__exit__()
        self.unused_parameters.close()

    def waiting(self, items: Iterable[Item]) -> Iterator[Item]:
        """Pass `items` on and time how long each is waited for."""
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
        """Time the forward pass and the loss inside a `with`."""
        self.watchdog.now("forward pass")
        started = time.perf_counter()
        yield
        self._forward += time.perf_counter() - started

    def evaluating(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        """Return `forward`, whose calls the watchdog takes as signs of life."""

        def watched(*inputs: Any) -> Any:
            self.watchdog.now("evaluation")
            self.watchdog.beat()
            return forward(*inputs)

        return watched

    def step_done(self) -> tuple[float, float]:
        """End a step; return the seconds it waited for data and spent in forward passes."""
        forward, self._forward = self._forward, 0.0
        self.watchdog.beat()
        return self._waited, forward
