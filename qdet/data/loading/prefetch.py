"""Reading ahead: what comes next is made by readers while the consumer works, and handed over in order.

Readers are threads or processes. Decoding and resizing release Python's lock, so that threads suffice, need
nothing sent between processes and nothing forked beside CUDA or Ray: they take two thirds of the processor
time (docs/data.md). Processes share no lock with training at all, which may be worth that where many readers
feed one GPU.
"""

import dataclasses
import multiprocessing
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from functools import partial
from typing import Literal, TypeVar

import torch

from qdet.errors import DataError
from qdet.types import Batch

T = TypeVar("T")
Readers = Literal["threads", "processes"]


def read_ahead(
    loads: Iterable[Callable[[], T]],
    *,
    readers: int,
    ahead: int,
    kind: Readers = "threads",
    then: Callable[[T], T] | None = None,
) -> Generator[T, None, None]:
    """Call each of `loads` in a reader and yield their results in order.

    While the consumer works on one result, up to `ahead` further ones are made or wait. An error is raised
    where its result would be. When the consumer stops, so do the readers.

    Args:
        loads: What makes the results; processes need them picklable.
        readers: How many threads or processes there are.
        ahead: How many results may be made before they are asked for.
        kind: What the readers are.
        then: Applied to each result by a thread of this process, whatever made it.
    """
    pending: deque[Future[T]] = deque()
    with ExitStack() as stack:
        call = _call if kind == "threads" else partial(_call_in, stack.enter_context(_processes(readers)))
        threads = ThreadPoolExecutor(readers, thread_name_prefix="qdet-reader")
        stack.callback(threads.shutdown, wait=True, cancel_futures=True)
        for load in loads:
            pending.append(threads.submit(_finish, call, load, then))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def _finish(call: Callable[[Callable[[], T]], T], load: Callable[[], T], then: Callable[[T], T] | None) -> T:
    result = call(load)
    return result if then is None else then(result)


def _call(load: Callable[[], T]) -> T:
    return load()


def _call_in(pool: ProcessPoolExecutor, load: Callable[[], T]) -> T:
    """Let a process make the result; a thread waits for it."""
    try:
        return pool.submit(load).result()
    except BrokenProcessPool as error:
        raise DataError(
            "a reader process died, probably out of memory; give fewer --data.readers, or read with "
            "--data.reader-kind threads"
        ) from error


def _processes(readers: int) -> ProcessPoolExecutor:
    """Fresh processes: a fork would copy locks that other threads of this process hold, and CUDA's state."""
    return ProcessPoolExecutor(readers, mp_context=multiprocessing.get_context("spawn"), initializer=_start)


def _start() -> None:
    """One reader is one thread of work."""
    import torch
    import torch.multiprocessing

    torch.set_num_threads(1)


class Upload:
    """Copies the images of a batch; the rest is small, and stays where training counts with it."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.training = torch.cuda.current_stream(device)
        self.copies = torch.cuda.Stream(device)

    def __call__(self, batch: Batch) -> Batch:
        """Return the batch once its images are on the device: the reader waits, training does not."""
        with torch.cuda.stream(self.copies):
            images = batch.images.pin_memory().to(self.device, non_blocking=True)
        self.copies.synchronize()
        # Copies may not be given this memory again before training, on its own stream, has done with it.
        images.record_stream(self.training)
        return dataclasses.replace(batch, images=images)


Load = Callable[[], Batch]
