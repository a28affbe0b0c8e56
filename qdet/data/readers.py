"""Reading ahead: what comes next is made by readers while the consumer works, and handed over in order.

Threads rather than processes: decoding and resizing release Python's lock, nothing has to be sent between
processes, and nothing is forked beside CUDA or Ray.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def read_ahead(loads: Iterable[Callable[[], T]], *, readers: int, ahead: int) -> Generator[T, None, None]:
    """Call each of `loads` in a thread and yield their results in order.

    While the consumer works on one result, up to `ahead` further ones are made or wait. An error is raised
    where its result would be. When the consumer stops, so do the threads.
    """
    pending: deque[Future[T]] = deque()
    loads = iter(loads)
    pool = ThreadPoolExecutor(readers, thread_name_prefix="qdet-reader")
    try:
        for load in loads:
            pending.append(pool.submit(load))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
