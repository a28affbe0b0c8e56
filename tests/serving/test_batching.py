"""Whatever comes in which order, each image gets its own answer, in batches that keep their limits."""

import asyncio
import threading
import time
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qdet.serving.batching import Batcher, BatchPolicy, QueueFullError, Shape, choose_batch

sides = st.integers(1, 12).map(lambda n: 32 * n)
shapes = st.builds(Shape, st.sampled_from([None, 64]), st.tuples(sides, sides))


@dataclass(frozen=True)
class Sent:
    """One request: its images, when it comes, and whether its client leaves."""

    images: tuple[tuple[int, Shape], ...]
    turn: int
    leaves: bool


@dataclass
class FakeModel:
    """Answers 10 n for image n; an odd multiple of 7 makes its whole batch fail."""

    batches: list[list[int]] = field(default_factory=list)

    def __call__(self, images: list[int], size: int | None) -> list[tuple[int, int | None]]:
        self.batches.append(list(images))
        if any(_fails(n) for n in images):
            raise ArithmeticError("no")
        return [(10 * n, size) for n in images]


def _fails(n: int) -> bool:
    return n % 14 == 7


@st.composite
def requests(draw) -> list[Sent]:
    groups = draw(st.lists(st.lists(shapes, min_size=1, max_size=4), max_size=12))
    numbers = iter(range(1000))
    return [
        Sent(
            tuple((next(numbers), shape) for shape in group),
            turn=draw(st.integers(0, 6)),
            leaves=draw(st.integers(0, 5)) == 0,
        )
        for group in groups
    ]


@settings(max_examples=60)
@given(requests(), st.integers(1, 5), st.integers(1, 3), st.sampled_from([0.0, 0.002]))
def test_each_request_gets_its_own_answer(sent, batch_size, in_flight, wait):
    fake = FakeModel()
    policy = BatchPolicy(
        batch_size=batch_size, in_flight=in_flight, wait_seconds=wait, padding=0.25, capacity=1000
    )

    async def ask(batcher, request):
        for _ in range(request.turn):
            await asyncio.sleep(0)
        task = asyncio.ensure_future(batcher.submit(request.images))
        if request.leaves:
            await asyncio.sleep(0)
            task.cancel()
        return (await asyncio.gather(task, return_exceptions=True))[0]

    async def run():
        batcher = Batcher(fake, policy)
        async with asyncio.timeout(30):
            answers = await asyncio.gather(*(ask(batcher, request) for request in sent))
            while batcher._running:  # of clients that left
                await asyncio.sleep(0.001)
        assert batcher.waiting == 0
        return answers

    for request, answer in zip(sent, asyncio.run(run()), strict=True):
        if isinstance(answer, asyncio.CancelledError):
            assert request.leaves
        elif any(_fails(n) for n, _ in request.images):
            assert isinstance(answer, ArithmeticError)
        else:
            assert answer == [(10 * n, shape.size) for n, shape in request.images]
    shape_of = {n: shape for request in sent for n, shape in request.images}
    for batch in fake.batches:
        assert 1 <= len(batch) <= batch_size
        _assert_alike([shape_of[n] for n in batch], 0.25)
    computed = [n for batch in fake.batches for n in batch]
    succeeded = [n for batch in fake.batches if not any(map(_fails, batch)) for n in batch]
    assert len(succeeded) == len(set(succeeded))
    staying = {n for request in sent if not request.leaves for n, _ in request.images}
    assert {n for n in staying if not _fails(n)} <= set(computed) | {
        n for request in sent if any(_fails(m) for m, _ in request.images) for n, _ in request.images
    }


def _assert_alike(batch: list[Shape], padding: float) -> None:
    assert len({shape.size for shape in batch}) == 1
    height, width = np.array([shape.final_hw for shape in batch]).T
    own = int((height * width).sum())
    assert height.max() * width.max() * len(batch) <= (1 + padding) * own


@given(st.lists(shapes, min_size=1, max_size=20), st.integers(1, 8), st.sampled_from([0.0, 0.1, 0.25, 1.0]))
def test_a_batch_holds_the_oldest_and_what_is_like_it(waiting, batch_size, padding):
    chosen = choose_batch(waiting, batch_size, padding)
    assert chosen[0] == 0
    assert len(set(chosen)) == len(chosen) <= batch_size
    _assert_alike([waiting[i] for i in chosen], padding)
    if len(chosen) < batch_size:  # of the same size as the oldest, none is left out
        same = {i for i, shape in enumerate(waiting) if shape == waiting[0]}
        assert same <= set(chosen)


def test_same_sizes_come_before_similar_ones():
    wide, wider, tall = (Shape(None, hw) for hw in ((64, 96), (64, 128), (96, 64)))
    assert choose_batch([wide, tall, wider, wide, wide], 3, 0.5) == [0, 3, 4]
    assert choose_batch([wide, tall, wider, wide], 4, 0.5) == [0, 3, 2]


class Gate:
    """A model that computes only when the test lets it."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.open = threading.Semaphore(0)

    def __call__(self, images: list[int], _: int | None) -> list[int]:
        self.batches.append(list(images))
        assert self.open.acquire(timeout=30)
        return images

    async def reached(self, batches: int) -> None:
        deadline = time.monotonic() + 30
        while len(self.batches) < batches:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.001)


ONE = Shape(None, (64, 64))


def test_partial_batches_wait_for_the_model_and_full_ones_do_not():
    async def run():
        gate = Gate()
        batcher = Batcher(gate, BatchPolicy(batch_size=2, wait_seconds=0.0, in_flight=2, capacity=10))
        first = asyncio.ensure_future(batcher.submit([(1, ONE)]))
        await gate.reached(1)  # idle: a partial batch starts
        second = asyncio.ensure_future(batcher.submit([(2, ONE)]))
        await asyncio.sleep(0.05)
        assert gate.batches == [[1]]  # busy: it waits
        third = asyncio.ensure_future(batcher.submit([(3, ONE)]))
        await gate.reached(2)  # a full one starts beside the first
        assert gate.batches[1] == [2, 3]
        fourth = asyncio.ensure_future(batcher.submit([(4, ONE), (5, ONE)]))
        await asyncio.sleep(0.05)
        assert len(gate.batches) == 2  # in_flight batches run
        gate.open.release(3)
        assert await asyncio.gather(first, second, third, fourth) == [[1], [2], [3], [4, 5]]

    asyncio.run(run())


def test_a_full_queue_refuses_all_or_nothing():
    async def run():
        gate = Gate()
        batcher = Batcher(gate, BatchPolicy(batch_size=1, wait_seconds=0.0, in_flight=1, capacity=2))
        running = asyncio.ensure_future(batcher.submit([(1, ONE)]))
        await gate.reached(1)
        waiting = asyncio.ensure_future(batcher.submit([(2, ONE)]))
        await asyncio.sleep(0)
        with pytest.raises(QueueFullError):
            await batcher.submit([(3, ONE), (4, ONE)])
        assert batcher.waiting == 1
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        last = asyncio.ensure_future(batcher.submit([(5, ONE), (6, ONE)]))
        gate.open.release(3)
        assert await running == [1]
        assert await last == [5, 6]
        assert gate.batches == [[1], [5], [6]]  # what was withdrawn is not computed

    asyncio.run(run())
