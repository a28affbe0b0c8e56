"""Run one function over many tasks: in this process, in several, or on a Ray cluster.

Results arrive as they complete, each with the index of its task. The first error stops the run: waiting
tasks are cancelled, running ones finish, and the task's own error is raised.
"""

import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection, get_context, parent_process
from typing import Any, TypeVar

from qdet.errors import ClusterError, ConfigError, DataError, first_line

T = TypeVar("T")
R = TypeVar("R")
_QUEUED = 4  # tasks submitted per CPU, so that a node that joins finds work


def run_tasks(
    run: Callable[[T], R], tasks: Sequence[T], *, processes: int, ray: bool = False
) -> Iterator[tuple[int, R]]:
    """Yield (i, run(tasks[i])) for every task, in order of completion.

    Args:
        run: Picklable function of one task.
        tasks: Its arguments.
        processes: Local processes; 1 or fewer runs the tasks in this one.
        ray: Run on the Ray cluster instead.

    Raises:
        ClusterError: No cluster answers, or it lost a task too often.
        ConfigError: RAY_ADDRESS is not the address of a head.
        DataError: A process was killed.
    """
    if not tasks:
        return iter(())
    if ray:
        return _run_on_ray(run, tasks)
    if processes <= 1 or len(tasks) == 1:
        return ((i, run(task)) for i, task in enumerate(tasks))
    return _run_in_processes(run, tasks, min(processes, len(tasks)))


def _run_in_processes(run: Callable[[T], R], tasks: Sequence[T], processes: int) -> Iterator[tuple[int, R]]:
    context = get_context("forkserver")
    context.set_forkserver_preload(["webdataset"])  # imported once, not in every process
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_exit_with_parent)
    try:
        futures = {pool.submit(run, task): i for i, task in enumerate(tasks)}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool as error:
        raise DataError(
            "a process that wrote shards was killed, probably out of memory; finished shards are kept: run "
            "the command again with fewer --processes"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _exit_with_parent() -> None:
    """Exit when the parent process dies, as nothing collects the results then."""
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_exit_after, args=(parent.sentinel,), daemon=True).start()


def _exit_after(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)


def _run_on_ray(run: Callable[[T], R], tasks: Sequence[T]) -> Iterator[tuple[int, R]]:
    import ray
    from ray.exceptions import RayError, RayTaskError

    connected = _connect()
    pending: dict[Any, int] = {}
    try:
        remote = ray.remote(num_cpus=1, max_retries=3)(run)
        limit = max(1, int(_QUEUED * ray.cluster_resources().get("CPU", 1)))
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
        raise ClusterError(
            f"the Ray cluster lost a task more often than it retries one ({first_line(error)}); "
            "finished shards are kept: run the command again"
        ) from error
    finally:
        for reference in pending:
            ray.cancel(reference)
        if connected:
            ray.shutdown()


def _connect() -> bool:
    """Connect to the cluster at RAY_ADDRESS; return False if already connected.

    Ray's own search for a cluster is not used: it believes a note in /tmp, which any user of the machine
    could have left there to run code here.
    """
    import logging

    import ray

    if ray.is_initialized():
        return False
    address = os.environ.get("RAY_ADDRESS", "")
    if address in ("", "auto"):
        raise ConfigError(
            "--ray: name the cluster with RAY_ADDRESS=host:port; `qdet head status` prints that of your own"
        )
    if "://" in address:
        raise ConfigError(
            f"RAY_ADDRESS {address}: tasks need the head's own address, host:port (often port 6379); from "
            "outside the cluster submit this command as a job: ray job submit -- python -m ..."
        )
    try:
        host, _, port = address.rpartition(":")
        socket.create_connection((host, int(port)), timeout=5).close()
        ray.init(address=address, logging_level=logging.WARNING)
    except (OSError, ValueError, RuntimeError) as error:
        raise ClusterError(
            f"--ray: no Ray cluster answers at {address} ({first_line(error)}); name one "
            "with RAY_ADDRESS=host:port, start one with cluster/local.sh up, or drop --ray"
        ) from error
    return True
