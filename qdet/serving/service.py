"""A model that answers requests: admission, shared batches, health. Knows neither HTTP routes nor Ray."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache

import numpy as np

from qdet.data.image.resize import HW
from qdet.data.plan.views import evaluation_views
from qdet.inference.detections import Detections, Unreadable
from qdet.inference.model import Model
from qdet.inference.pictures import Picture, open_picture
from qdet.serving.batching import Batcher, BatchPolicy, QueueFullError, Shape
from qdet.serving.metrics import ServiceMetrics
from qdet.serving.refusal import RETRY_AFTER, Refusal
from qdet.serving.settings import ServiceSettings
from qdet.serving.uploads import open_image, opens_at_once

OPENERS = 2
"""Threads that look at headers."""
FRESH_SECONDS = 10.0
"""A model that computed a batch so recently is healthy without being asked."""
_log = logging.getLogger("ray.serve")


class Service:
    """One replica's model with its queue; belongs to one event loop."""

    def __init__(
        self, model: Model, settings: ServiceSettings, metrics: ServiceMetrics | None = None
    ) -> None:
        self.model, self.settings, self.metrics = model, settings, metrics or ServiceMetrics()
        self._openers = ThreadPoolExecutor(OPENERS, thread_name_prefix="qdet-open")
        policy = BatchPolicy(
            batch_size=settings.batch_size,
            wait_seconds=settings.wait_seconds,
            in_flight=settings.in_flight,
            padding=settings.padding,
            capacity=settings.limits.queue,
        )
        self._batcher: Batcher[Picture, Detections | Unreadable] = Batcher(
            self._detect, policy, self.metrics.observe_batch
        )
        self._final_hw = _final_sizes(model)
        self._running, self._last_success = 0, -FRESH_SECONDS
        self._probing: asyncio.Task[None] | None = None
        self.failures_in_row = 0
        """Forward passes that failed since the last one that did not."""
        self.metrics.waiting.set_function(lambda: self._batcher.waiting)
        self.metrics.running.set_function(lambda: self._running)

    @contextmanager
    def admit(self) -> Iterator[None]:
        """Run a request, unless too many run: their bodies would fill the memory."""
        if self._running >= self.settings.limits.queue:
            raise _busy()
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1

    async def predict(self, images: Sequence[bytes], *, size: int | None = None) -> list[Detections]:
        """Return all that is found in each image, as `Model.predict` does.

        Args:
            images: Bytes of image files.
            size: Short side in pixels that they are resized to; None: that of the model's evaluation.

        Raises:
            Refusal: 413, 415 or 422 for an image that cannot be used; 503 where the queue is full or the
                model takes too long.
        """
        limits = self.settings.limits
        opened = [await self._open(data, number) for number, data in enumerate(images)]
        try:
            async with asyncio.timeout(limits.answer_seconds):
                found = await self._submit(opened, size)
        except TimeoutError:
            raise Refusal(
                503, f"the model did not answer within {limits.answer_seconds:g} s", RETRY_AFTER
            ) from None
        return [_pick(one) for one in found]

    async def check_health(self) -> None:
        """Return once the model has answered: in the last seconds, or now.

        Raises:
            Refusal: 503: it did not.
        """
        if time.monotonic() - self._last_success < FRESH_SECONDS:
            return
        if self._probing is None or self._probing.done():  # one probe, however many ask
            self._probing = asyncio.get_running_loop().create_task(self._probe())
        await asyncio.shield(self._probing)

    async def _probe(self) -> None:
        gray = open_picture(np.full((64, 64, 3), 114, dtype=np.uint8))
        try:
            async with asyncio.timeout(self.settings.limits.answer_seconds):
                await self._submit([gray], None)
        except Exception as error:
            if isinstance(error, Refusal):
                raise
            raise Refusal(503, f"the model does not answer: {type(error).__name__}", RETRY_AFTER) from error

    async def _open(self, data: bytes, number: int) -> Picture:
        limits = self.settings.limits
        if opens_at_once(data):
            return open_image(data, number, limits)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._openers, open_image, data, number, limits)

    async def _submit(self, opened: Sequence[Picture], size: int | None) -> list[Detections | Unreadable]:
        shapes = [Shape(size, self._final_hw(picture.size_hw, size)) for picture in opened]
        try:
            return await self._batcher.submit(list(zip(opened, shapes, strict=True)))
        except QueueFullError:
            raise _busy() from None

    def _detect(self, pictures: list[Picture], size: int | None) -> list[Detections | Unreadable]:
        try:
            found = dict(self.model.detect(pictures, batch=len(pictures), size=size))
        except Exception:
            self.failures_in_row += 1
            _log.exception("a batch of %d failed", len(pictures))
            raise
        self.failures_in_row, self._last_success = 0, time.monotonic()
        return [found[number] for number in range(len(pictures))]


def _final_sizes(model: Model) -> Callable[[HW, int | None], HW]:
    """Return the function from an image's size, and the short side asked for, to its size in a batch."""
    augment = model.description.augment

    @lru_cache(maxsize=4096)
    def final_hw(size_hw: HW, size: int | None) -> HW:
        chosen = augment if size is None else augment.at_size(size)
        height, width = evaluation_views(np.array([size_hw], dtype=np.int64), chosen).final_hw[0].tolist()
        return height, width

    return final_hw


def _pick(found: Detections | Unreadable) -> Detections:
    if isinstance(found, Unreadable):
        raise Refusal(422, found.reason)
    return found


def _busy() -> Refusal:
    return Refusal(503, "too many requests wait for the model; try again in a moment", RETRY_AFTER)
