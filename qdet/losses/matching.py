"""Hungarian matching of queries to objects, for all stages and images at once.

S stages   B images   N queries   T objects of the batch   m matched pairs of the batch
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, islice
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, Int32, Int64
from torch import Tensor

from qdet.errors import DivergedError
from qdet.kernels.assignment import assignment, assignment_runs, define_assignment
from qdet.types import Targets

MOST_THREADS = 8
"""Threads that solve assignments; scipy releases the interpreter's lock meanwhile."""


@dataclass(frozen=True)
class Assignment:
    """Pairs of query and object, equally many per stage, in the order of the images."""

    queries: Int[Tensor, "S m"]
    """Queries of the batch: image * N + query."""
    objects: Int[Tensor, "S m"]
    """Rows of `Targets`."""


def assign(cost: Float[Tensor, "S T N"], counts: Sequence[int]) -> "Pending":
    """Start to match every object (or, with fewer queries, every query) at minimal total cost.

    Row t holds object t's costs for the queries of its image. They are the step's only copy from device to
    host: one tensor for all stages and images. Threads wait for it and solve it, while the caller gives the
    device what needs no assignment. A kernel, where it is wanted, finds the same pairs on the
    device; what is copied then is which costs are not finite.
    """
    stages, _, queries = cost.shape
    pairs = np.zeros((2, stages, sum(min(queries, n) for n in counts)), dtype=np.int64)
    if not pairs.size:
        return OnHost(pairs, [], cost.device)
    if assignment_runs(cost, counts):
        found, broken = assignment(cost.detach(), counts)
        return OnDevice(found, *_copy_to_host(broken))
    problems = _Problems(*_copy_to_host(cost.detach()), _cut(counts, queries), pairs)
    threads = min(torch.get_num_threads(), MOST_THREADS)
    if cost.device.type == "cpu" and threads == 1:
        problems.solve(0, 1)
        return OnHost(pairs, [], cost.device)
    jobs = [_pool(threads).submit(problems.solve, first, threads) for first in range(threads)]
    return OnHost(pairs, jobs, cost.device)


class Pending(ABC):
    """An assignment that may still be computed."""

    @abstractmethod
    def result(self) -> Assignment:
        """Wait for the assignment.

        Raises:
            DivergedError: A cost is NaN or infinite, so predictions are.
        """


@dataclass(frozen=True)
class OnHost(Pending):
    """An assignment that threads of the host compute."""

    pairs: Int64[np.ndarray, "2 S m"]
    jobs: Sequence[Future[None]]
    device: torch.device

    def result(self) -> Assignment:
        """Wait for the assignment and copy it to the device at once; see `Pending`."""
        for job in self.jobs:
            job.result()
        on_host = torch.from_numpy(self.pairs)
        if self.device.type == "cuda":
            on_host = on_host.pin_memory()
        return Assignment(*on_host.to(self.device, non_blocking=True))


@dataclass(frozen=True)
class OnDevice(Pending):
    """An assignment that the device computes."""

    pairs: Int64[Tensor, "2 S m"]
    broken: Int32[np.ndarray, "S B"]
    """1 for each matrix with a cost that is not finite, once it has arrived."""
    arrived: Callable[[], None]

    def result(self) -> Assignment:
        """Wait until the device has looked at every cost; see `Pending`."""
        self.arrived()
        if self.broken.any():
            raise _diverged(*np.argwhere(self.broken)[0].tolist())
        return Assignment(*self.pairs)


def matched_objects(targets: Targets, queries: int) -> int:
    """Count the matched pairs per stage: an image's objects, or its queries if fewer."""
    return sum(min(queries, n) for n in targets.counts)


def owners(counts: Sequence[int], device: torch.device) -> Int[Tensor, " T"]:
    """Return the image of every packed object."""
    return torch.from_numpy(np.repeat(np.arange(len(counts)), counts)).to(device, non_blocking=True)


class _Image(NamedTuple):
    """Where an image's objects, queries and pairs are among those of the batch."""

    number: int
    objects: slice
    first_query: int
    pairs: slice


@dataclass(frozen=True)
class _Problems:
    """The assignment problems of a step."""

    cost: Float[np.ndarray, "S T N"]
    arrived: Callable[[], None]
    images: Sequence[_Image]
    pairs: Int64[np.ndarray, "2 S m"]

    def solve(self, first: int, every: int) -> None:
        """Solve every so many of the problems from the `first`; several threads share them so."""
        self.arrived()
        problems = ((stage, image) for stage in range(len(self.cost)) for image in self.images)
        for stage, image in islice(problems, first, None, every):
            objects, queries = _solve(self.cost[stage, image.objects], stage, image.number)
            self.pairs[0, stage, image.pairs] = queries + image.first_query
            self.pairs[1, stage, image.pairs] = objects + image.objects.start


def _cut(counts: Sequence[int], queries: int) -> list[_Image]:
    """Locate the images that have objects."""
    ends, found = list(accumulate(counts)), 0
    images = []
    for number, (n, end) in enumerate(zip(counts, ends, strict=True)):
        pairs = slice(found, found + min(n, queries))
        if n:
            images.append(_Image(number, slice(end - n, end), number * queries, pairs))
        found = pairs.stop
    return images


def _copy_to_host(cost: Tensor) -> tuple[np.ndarray, Callable[[], None]]:
    """Start to copy `cost` to the host; return where to, and how to wait for it."""
    if cost.device.type != "cuda":
        return cost.cpu().numpy(), lambda: None
    on_host = torch.empty(cost.shape, dtype=cost.dtype, pin_memory=True)
    on_host.copy_(cost, non_blocking=True)
    event = torch.cuda.Event()
    event.record()
    return on_host.numpy(), event.synchronize


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="qdet-matching")


def _solve(cost: Float[np.ndarray, "t N"], stage: int, image: int) -> tuple[np.ndarray, ...]:
    if not np.isfinite(cost).all():
        raise _diverged(stage, image)
    return define_assignment(cost)


def _diverged(stage: int, image: int) -> DivergedError:
    return DivergedError(
        f"training diverged: the matching cost of stage {stage}, image {image} of the batch is NaN or "
        "infinite, so its predictions or boxes are. Lower --optim.lr, lengthen --optim.warmup-steps, or "
        "try --train.precision fp32"
    )
