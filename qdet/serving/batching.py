"""Images of many requests in shared batches of like size.

A full batch starts at once, while up to `in_flight` of them run; a partial one only when the model is idle,
and then after a moment in which others may join. Under load batches fill up by themselves; a lone image waits
for that moment only. The oldest image is in every next batch, so none waits forever.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np

from qdet.data.image.resize import HW

Image = TypeVar("Image")
Answer = TypeVar("Answer")


class QueueFullError(Exception):
    """More images wait than may."""


@dataclass(frozen=True)
class Shape:
    """What images of one batch must share, or nearly so."""

    size: int | None
    """Short side that a request asks for; a batch has one."""
    final_hw: HW
    """Height and width after resizing, in pixels; a batch is padded to the largest."""


@dataclass(frozen=True, kw_only=True)
class BatchPolicy:
    """How batches are formed."""

    batch_size: int = 8
    wait_seconds: float = 0.005
    in_flight: int = 2
    padding: float = 0.25
    """Padding that different sizes may add, as a share of the images' own pixels."""
    capacity: int = 64
    """Images that may wait."""


@dataclass(eq=False)
class _Waiting(Generic[Image, Answer]):
    image: Image
    shape: Shape
    answer: "asyncio.Future[Answer]"
    since: float = field(default_factory=time.monotonic)


class Batcher(Generic[Image, Answer]):
    """Answers images through one function that takes them in batches; belongs to one event loop.

    Args:
        detect: Called in a thread with the images of a batch and the short side they asked for; returns their
            answers in order. Where it raises, each image is tried alone.
        policy: How batches are formed.
        observe: Called after each batch with its images and its seconds.
    """

    def __init__(
        self,
        detect: Callable[[list[Image], int | None], Sequence[Answer]],
        policy: BatchPolicy,
        observe: Callable[[int, float], None] = lambda images, seconds: None,
    ) -> None:
        self._detect, self.policy, self._observe = detect, policy, observe
        self._threads = ThreadPoolExecutor(policy.in_flight, thread_name_prefix="qdet-model")
        self._waiting: list[_Waiting[Image, Answer]] = []
        self._running: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """Images that wait for a batch."""
        return len(self._waiting)

    async def submit(self, images: Sequence[tuple[Image, Shape]]) -> list[Answer]:
        """Return the answers to these images, in order; cancelling withdraws those that still wait.

        Raises:
            QueueFullError: Too many images wait; none of these was accepted.
        """
        if self._waiting and len(self._waiting) + len(images) > self.policy.capacity:
            raise QueueFullError
        loop = asyncio.get_running_loop()
        mine = [_Waiting(image, shape, loop.create_future()) for image, shape in images]
        self._waiting += mine
        self._start_batches()
        try:
            return list(await asyncio.gather(*(one.answer for one in mine)))
        finally:
            for one in mine:
                one.answer.cancel()
            self._forget_answered()

    def _start_batches(self) -> None:
        """Start what is due now; called whenever that may have changed."""
        self._forget_answered()
        while self._waiting and len(self._running) < self.policy.in_flight:
            shapes = [one.shape for one in self._waiting]
            chosen = choose_batch(shapes, self.policy.batch_size, self.policy.padding)
            if len(chosen) < self.policy.batch_size and not self._partial_is_due():
                return
            batch = [self._waiting[i] for i in chosen]
            self._waiting = [one for one in self._waiting if one not in batch]
            task = asyncio.get_running_loop().create_task(self._run(batch))
            self._running.add(task)

    def _forget_answered(self) -> None:
        self._waiting = [one for one in self._waiting if not one.answer.done()]

    def _partial_is_due(self) -> bool:
        """True where the model is idle and the oldest image has waited; otherwise sees to it later."""
        if self._running:
            return False  # the end of that batch calls again
        left = self._waiting[0].since + self.policy.wait_seconds - time.monotonic()
        if left <= 0:
            return True
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(left, self._start_batches)
        return False

    async def _run(self, batch: "list[_Waiting[Image, Answer]]") -> None:
        try:
            await self._answer(batch)
        finally:
            self._running.remove(asyncio.current_task())  # pyright: ignore[reportArgumentType]
            self._start_batches()

    async def _answer(self, batch: "list[_Waiting[Image, Answer]]") -> None:
        began = time.monotonic()
        call = asyncio.get_running_loop().run_in_executor(
            self._threads, self._detect, [one.image for one in batch], batch[0].shape.size
        )
        try:
            answers = await call
        except Exception as error:
            if len(batch) > 1:  # one of them is to blame
                for one in batch:
                    await self._answer([one])
            elif not batch[0].answer.done():
                batch[0].answer.set_exception(error)
            return
        self._observe(len(batch), time.monotonic() - began)
        for one, answer in zip(batch, answers, strict=True):
            if not one.answer.done():
                one.answer.set_result(answer)


def choose_batch(shapes: Sequence[Shape], batch_size: int, padding: float) -> list[int]:
    """Return which of the waiting images, the oldest first, make the next batch.

    The first is in it. Others join in the order of how near their sizes are to its own, as long as padding
    all to the largest height and width adds no more than a share `padding` to their own pixels.
    """
    height, width = (np.array([shape.final_hw[side] for shape in shapes], dtype=np.int64) for side in (0, 1))
    distance = np.abs(np.log(height / height[0])) + np.abs(np.log(width / width[0]))
    chosen, most, own = [0], shapes[0].final_hw, height[0] * width[0]
    for i in np.argsort(distance, kind="stable").tolist():
        if len(chosen) == batch_size:
            break
        if i == 0 or shapes[i].size != shapes[0].size:
            continue
        larger = max(most[0], int(height[i])), max(most[1], int(width[i]))
        area = own + height[i] * width[i]
        if larger[0] * larger[1] * (len(chosen) + 1) <= (1 + padding) * area:
            chosen, most, own = [*chosen, i], larger, area
    return chosen
