"""Averages over steps: losses, images per second, time spent waiting for data, remaining time."""

import math
import time
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TypeVar

import psutil
import torch
from torch import Tensor

from qdet.training.distributed import World
from qdet.training.optim import Schedule
from qdet.training.reporting import Progress
from qdet.training.step import Made

Item = TypeVar("Item")
_NOT_A_TERM = ("loss", "pos_acc")


class RemainingTime:
    """Estimates the time until the last step from all steps so far, recent ones counting more.

    The weight of a step halves every `half_life` steps after it, so that a slow batch or a busy minute moves
    the estimate little, and a lasting change is followed.
    """

    def __init__(self, half_life: float = 100.0) -> None:
        self._half_life = half_life
        self._seconds, self._weight = 0.0, 0.0

    def add(self, seconds: float, steps: int) -> None:
        """Add the time that the last `steps` took together."""
        if steps < 1:
            return
        kept = 0.5 ** (steps / self._half_life)
        self._seconds = kept * self._seconds + (1 - kept) * seconds / steps
        self._weight = kept * self._weight + 1 - kept

    def estimate(self, steps: int) -> float:
        """Return the seconds that `steps` more take; NaN before the first were added."""
        return steps * self._seconds / self._weight if self._weight else math.nan


class Meter:
    """Averages over the steps between two readings.

    Losses stay on the device until they are read, so that no step waits for them. Time between `pause()` and
    the next item (evaluation, checkpoints) is not counted.
    """

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self._remaining = RemainingTime()
        self._reset()

    def waiting(self, items: Iterable[Item]) -> Iterator[Item]:
        """Pass `items` on, adding up how long each is waited for."""
        source = iter(items)
        while True:
            asked = time.perf_counter()
            try:
                item = next(source)
            except StopIteration:
                return
            now = time.perf_counter()
            if self._started is None:  # the first wait after a pause fills the pipeline: not typical
                self._started = now
            else:
                self._waited += now - asked
            yield item

    def count(self) -> None:
        """Count one step."""
        self._count += 1
        self._ended = time.perf_counter()

    def add(self, made: Made | None) -> None:
        """Add the outcome of a step, if it is known; nothing of a skipped one."""
        if made is None or not math.isfinite(made.norm):
            return
        for name, value in made.terms.items():
            self._terms[name] = self._terms[name] + value if name in self._terms else value
        self._norm += made.norm
        self._made += 1

    def pause(self) -> None:
        """Do not count the time until the next item."""
        if self._started is not None:
            self._elapsed += max(0.0, self._ended - self._started)  # 0 if there was no step since a reading
        self._started = None

    def read(self, step: int, world: World) -> tuple[Progress, dict[str, float]]:
        """Return progress and metrics since the last reading, and reset. Collective."""
        now = time.perf_counter()
        running = self._started is not None
        self.pause()
        count, made = max(self._count, 1), self._made or math.nan
        means = {name: mean / made for name, mean in zip(self._terms, self._means(world), strict=True)}
        seconds = max(self._elapsed, 1e-9)
        self._remaining.add(seconds, self._count)
        schedule, job = self.schedule, self.schedule.job
        lr = job.optim.lr * schedule.lr_factor(step - 1)
        progress = Progress(
            step=step,
            steps=schedule.steps,
            epoch=step / schedule.steps_per_epoch,
            loss=means.get("loss", math.nan),
            losses={n: v for n, v in means.items() if "/" not in n and n not in _NOT_A_TERM},
            lr=lr,
            grad_norm=self._norm / made,
            images_per_second=job.train.batch_size * count / seconds,
            data_wait=min(self._waited / seconds, 1.0),
            memory=memory_in_use(world.device),
            eta_seconds=self._remaining.estimate(schedule.steps - step),
        )
        metrics = {f"train/{name}": value for name, value in means.items()} | {
            "train/lr": lr,
            "train/grad_norm": progress.grad_norm,
            "train/epoch": progress.epoch,
            "perf/images_per_second": progress.images_per_second,
            "perf/data_wait": progress.data_wait,
            "perf/seconds_per_step": seconds / count,
        }
        self._reset()
        self._started = now if running else None
        return progress, metrics

    def _means(self, world: World) -> list[float]:
        """Return each term, summed over steps: its mean over ranks or fixed micro-batches (collective)."""
        if not self._terms:
            world.sum()
            return []
        terms = torch.stack(list(self._terms.values())).tolist()
        if not isinstance(terms[0], list):
            return [total / world.size for total in world.sum(*terms)]
        each = len(terms[0])
        totals = world.sum(*chain.from_iterable(terms))  # a rank adds zeros to what others have
        return [math.fsum(totals[at : at + each]) / each for at in range(0, len(totals), each)]

    def _reset(self) -> None:
        self._terms: dict[str, Tensor] = {}
        self._norm, self._waited, self._elapsed = 0.0, 0.0, 0.0
        self._count, self._made = 0, 0
        self._started: float | None = None
        self._ended = 0.0


def memory_in_use(device: torch.device) -> float:
    """Return the bytes of this process: the most so far on a GPU, or what it now takes on the host."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    return float(psutil.Process().memory_info().rss)
