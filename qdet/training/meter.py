"""Averages over steps: losses, images per second, time spent waiting for data, remaining time."""

import math
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from torch import Tensor

from qdet.training.distributed import World
from qdet.training.optim import Schedule
from qdet.training.reporting import Progress

Item = TypeVar("Item")


class Meter:
    """Averages over the steps between two readings.

    Losses stay on the device until they are read, so that no step waits for them. Time between `pause()` and
    the next item (evaluation, checkpoints) is not counted.
    """

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
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

    def add(self, terms: dict[str, Tensor], norm: float) -> None:
        """Add one step; of a skipped one, whose `norm` is not finite, only images and time count."""
        if math.isfinite(norm):
            for name, value in terms.items():
                self._terms[name] = self._terms[name] + value if name in self._terms else value
            self._norm += norm
            self._made += 1
        self._count += 1
        self._ended = time.perf_counter()

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
        totals = world.sum(*(float(total) for total in self._terms.values()))
        means = {name: t / world.size / made for name, t in zip(self._terms, totals, strict=True)}
        seconds = max(self._elapsed, 1e-9)
        schedule, job = self.schedule, self.schedule.job
        lr = job.optim.lr * schedule.lr_factor(step - 1)
        progress = Progress(
            step=step,
            steps=schedule.steps,
            epoch=step / schedule.steps_per_epoch,
            loss=means.get("loss", float("nan")),
            lr=lr,
            grad_norm=self._norm / made,
            images_per_second=job.train.batch_size * count / seconds,
            data_wait=min(self._waited / seconds, 1.0),
            eta_seconds=(schedule.steps - step) * seconds / count,
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

    def _reset(self) -> None:
        self._terms: dict[str, Tensor] = {}
        self._norm, self._waited, self._elapsed = 0.0, 0.0, 0.0
        self._count, self._made = 0, 0
        self._started: float | None = None
        self._ended = 0.0
