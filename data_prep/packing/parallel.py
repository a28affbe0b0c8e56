"""One function over many tasks: here, in several processes, or on the machines of a Ray cluster.

Results come as they are ready, each with the place of its task. The first error ends everything: what has
not begun is dropped, what has begun is finished, and the error is that of the task itself.
"""

import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection, get_context, parent_process
from typing import Any, TypeVar

from qdet.errors import ClusterError, ConfigError, DataError

T = TypeVar("T")
R = TypeVar("R")
_AHEAD = 4  # tasks that wait in the cluster per CPU, so that a node that joins finds work


def spread(
    run: Callable[[T], R], tasks: Sequence[T], *, processes: int, ray: bool = False
) -> Iterator[tuple[int, R]]:
    """Yield (i, run(tasks[i])) for every task, in the order in which they are done."""
    if not tasks:
        return iter(())
    if ray:
        return _on_ray(run, tasks)
    if processes <= 1 or len(tasks) == 1:
        return ((i, run(task)) for i, task in enumerate(tasks))
    return _in_processes(run, tasks, min(processes, len(tasks)))


def _in_processes(run: Callable[[T], R], tasks: Sequence[T], processes: int) -> Iterator[tuple[int, R]]:
    context = get_context("forkserver")
    context.set_forkserver_preload(["webdataset"])  # imported once, not once by every process
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_end_with_parent)
    try:
        futures = {pool.submit(run, task): i for i, task in enumerate(tasks)}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool as error:
        raise DataError(
            "a process that wrote shards was killed, out of memory perhaps; finished shards are kept, run "
            "the command again with fewer --processes"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _end_with_parent() -> None:
    """Let this process end when the one that started it is killed: nobody would take its results."""
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_wait_for, args=(parent.sentinel,), daemon=True).start()


def _wait_for(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)


def _on_ray(run: Callable[[T], R], tasks: Sequence[T]) -> Iterator[tuple[int, R]]:
    import ray
    from ray.exceptions import RayError, RayTaskError

    joined = _join()
    pending: dict[Any, int] = {}
    try:
        remote = ray.remote(num_cpus=1, max_retries=3)(run)
        limit = max(1, int(_AHEAD * ray.cluster_resources().get("CPU", 1)))
        waiting = iter(enumerate(tasks))
        while True:
            while len(pending) < limit and (task := next(waiting, None)) is not None:
                pending[remote.remote(task[1])] = task[0]
            if not pending:
                return
            ready, _ = ray.wait(list(pending), num_returns=1)
            yield pending.pop(ready[0]), ray.get(ready[0])
    except RayTaskError as error:
        raise error.cause from error
    except RayError as error:
        first = str(error).strip().splitlines()[0]
        raise ClusterError(
            f"the Ray cluster lost a task more often than it repeats one ({first}); finished shards are "
            "kept, run the command again"
        ) from error
    finally:
        for reference in pending:
            ray.cancel(reference)
        if joined:
            ray.shutdown()


def _join() -> bool:
    """Join the cluster that RAY_ADDRESS names or that runs here; False where this process already has."""
    import logging

    import ray

    if ray.is_initialized():
        return False
    address = os.environ.get("RAY_ADDRESS") or "auto"
    if "://" in address:
        raise ConfigError(
            f"RAY_ADDRESS {address}: tasks need the head's own address, host:port (often port 6379); from "
            "outside the cluster submit this command as a job: ray job submit -- python -m ..."
        )
    try:
        if address != "auto":
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), timeout=5).close()
        ray.init(address=address, logging_level=logging.WARNING)
    except (OSError, ValueError, RuntimeError) as error:
        raise ClusterError(
            f"--ray: no Ray cluster answers at {address} ({str(error).strip().splitlines()[0]}); name one "
            "with RAY_ADDRESS=host:port, start one with cluster/local.sh up, or leave --ray away"
        ) from error
    return True
