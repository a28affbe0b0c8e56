"""The ranks of a training: this process's rank and device, and the few collectives that training needs.

`join()` uses an existing process group (on Ray `enter_group` made it), makes one from torchrun's environment,
or makes a group of one process. Nothing here knows Ray or DeepSpeed. Ranks exchange tensors and JSON, never
pickles.
"""

import atexit
import gc
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import timedelta
from types import CellType, FunctionType
from typing import Any, Literal, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Int
from torch import Tensor
from torch._C._distributed_c10d import HashStore, Store

from qdet.errors import ConfigError
from qdet.training.joining.exchange import (
    broadcast_json,
    describe_error,
    exchange_arrays,
    gather_arrays,
    gather_json,
    restore_error,
)
from qdet.training.joining.rendezvous import meet, require_secret

T = TypeVar("T")
START_PATIENCE = 60
"""Seconds beyond the timeout that ranks wait for each other when they start, unless it is said."""
_stores: list[Store] = []  # C++ finds the methods of a Python store only while Python holds it


@dataclass(frozen=True)
class World:
    """This process among all ranks of a run."""

    rank: int
    size: int
    device: torch.device

    @property
    def main(self) -> bool:
        """True on the one rank that logs and writes."""
        return self.rank == 0

    def sum(self, *values: float) -> list[float]:
        """Sum each of `values` over all ranks, in one collective."""
        if self.size == 1:
            return list(values)
        totals = torch.tensor(values, dtype=torch.float64)  # on the host: no wait for what a GPU still does
        dist.all_reduce(totals)
        return totals.tolist()

    def total(self, counts: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
        """Sum tensors of one shape over all ranks (collective)."""
        if self.size == 1:
            return counts.clone()
        totals = counts.to(self.device, copy=True)
        dist.all_reduce(totals)
        return totals.cpu()

    def gather(self, value: Any) -> list[Any]:
        """Return all ranks' values in order on rank 0, and an empty list elsewhere (collective).

        Of several ranks they arrive as JSON has them: tuples as lists, keys as text.
        """
        return [value] if self.size == 1 else gather_json(value, self.device)

    def gather_arrays(self, arrays: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
        """Return all ranks' arrays by name, in order on rank 0, and an empty list elsewhere (collective)."""
        return [dict(arrays)] if self.size == 1 else gather_arrays(arrays, self.device)

    def exchange_arrays(self, parts: Sequence[Mapping[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
        """Send each rank its part; return what all ranks, in order, have sent this one (collective)."""
        return [dict(parts[0])] if self.size == 1 else exchange_arrays(parts)

    def broadcast(self, value: Any) -> Any:
        """Return rank 0's `value` on every rank, from several as JSON has it (collective)."""
        return value if self.size == 1 else broadcast_json(value, self.device)

    def on_all(self, task: Callable[[], T]) -> T:
        """Run `task`, which uses no device, on every rank; return its value there (collective).

        It may take longer than the timeout of a collective: it runs on a thread while the ranks, in one
        collective a second, keep waiting for each other. What it raises is raised on every rank, so that no
        rank waits for one that has failed: a `QdetError` as such, any other as RuntimeError on the others.
        """
        if self.size == 1:
            return task()
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(task)
            while self.sum(float(_still(running)))[0]:
                pass
        failed = running.exception()
        if failed is not None and not isinstance(failed, Exception):
            raise failed
        errors = self.gather(None if failed is None else describe_error(failed, self.rank))
        error = self.broadcast(next((one for one in errors if one is not None), None))
        if error is not None:
            raise failed or restore_error(error)
        return running.result()

    def on_main(self, task: Callable[[], T]) -> T:
        """Run `task` as `on_all` does, on rank 0 alone; return its value, JSON, everywhere (collective)."""
        return self.broadcast(self.on_all(task if self.main else _nothing))

    def barrier(self) -> None:
        """Wait for all ranks (collective)."""
        if self.size > 1:
            dist.barrier()


def join(
    accelerator: Literal["auto", "gpu", "cpu"],
    *,
    timeout: int,
    patience: int | None = None,
    secret: str | None = None,
) -> World:
    """Enter the process group. One that is made here stays until the process ends.

    DeepSpeed keeps the groups it derives from it, so a second run in one process needs the same one.

    Args:
        accelerator: What to train on; `auto` uses the GPU of this process if it has one.
        timeout: Seconds after which a collective without an answer fails.
        patience: Seconds that ranks wait for each other when they start, and for the first collectives.
        secret: What the ranks of this run know and nobody else; by default QDET_JOIN_SECRET. One process
            alone needs none.

    Raises:
        ConfigError: `gpu` was requested and this process sees none, or several ranks have no secret.
        ClusterError: Rank 0 cannot be joined.
    """
    device = _device(accelerator)
    if not dist.is_initialized():
        backend = backend_of(gpu=device.type == "cuda")
        # Rank 0 may wait until a dead driver's lease ends; `set_timeout_of_all_groups` comes later.
        patience = timeout + START_PATIENCE if patience is None else patience
        enter_group(_open_store(secret, patience), backend, timeout=patience)
        atexit.register(_leave)
    return World(rank=dist.get_rank(), size=dist.get_world_size(), device=device)


def backend_of(*, gpu: bool) -> str:
    """Return the backend of a process group: gloo for what is on the host, and NCCL for what is on GPUs."""
    return "cpu:gloo,cuda:nccl" if gpu else "gloo"


def set_timeout_of_all_groups(seconds: int) -> None:
    """Set the timeout of every process group: those that libraries make start with torch's 30 minutes."""
    from torch.distributed import distributed_c10d as c10d

    set_timeout = getattr(c10d, "set_timeout", None) or c10d._set_pg_timeout  # public since torch 2.14
    for group in list(c10d._world.pg_map):
        set_timeout(timedelta(seconds=seconds), group)


def _nothing() -> Any:
    """Do nothing."""


def _still(running: Future[Any]) -> bool:
    """Wait up to a second for a task; return whether it still runs."""
    return not wait((running,), timeout=1.0).done


def _device(accelerator: str) -> torch.device:
    if accelerator == "gpu" and not torch.cuda.is_available():
        raise ConfigError("--train.accelerator gpu: this machine has no CUDA device; use cpu or auto")
    if accelerator == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


def enter_group(store: Store, backend: str, *, timeout: int) -> None:
    """Make the process group of all ranks, as RANK and WORLD_SIZE number them; of one without. Collective."""
    # NCCL's watchdog would ask the store every second whether a rank wants a dump of its last operations.
    os.environ.setdefault("TORCH_NCCL_DUMP_ON_TIMEOUT", "0")
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    _stores.append(store)
    dist.init_process_group(
        backend, timeout=timedelta(seconds=timeout), store=store, rank=rank, world_size=size
    )


def _open_store(secret: str | None, timeout: int) -> Store:
    """Return the store in which the ranks find each other; one rank needs no port and no secret."""
    if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return HashStore()
    return meet(int(os.environ["RANK"]), require_secret(secret), timeout=timeout)


def _leave() -> None:
    """Destroy the process groups, and end the threads of those of gloo while the interpreter still runs.

    A thread of gloo takes the interpreter's lock to drop the tensors of its last collective. CPython before
    3.14 ends a thread that asks for the lock during shutdown by unwinding its stack, which C++ answers with
    `std::terminate` (pytorch/pytorch#190489). Only the destructor of a gloo group joins its threads
    (pytorch/pytorch#130345), so nothing may hold the group any more, as DeepSpeed does in many places.
    """
    if not dist.is_initialized():
        return
    from torch.distributed import distributed_c10d as c10d

    groups = [group for group in c10d._world.pg_map if "gloo" in dist.get_backend_config(group)]
    dist.destroy_process_group()
    gc.collect()
    while groups:
        _let_go_of(groups.pop())


def _let_go_of(group: dist.ProcessGroup) -> None:
    """Put None in the place of `group` wherever Python holds it."""
    number = id(group)  # what closes over the group itself would lose it here, too
    for holder in gc.get_referrers(group):
        if isinstance(holder, CellType):
            holder.cell_contents = None
        else:
            _replace(number, holder if isinstance(holder, dict | list) else getattr(holder, "__dict__", {}))
    for function in gc.get_objects():  # the collector does not see a tuple of things that it does not track
        if type(function) is FunctionType and number in map(id, function.__defaults__ or ()):
            function.__defaults__ = tuple(None if id(v) == number else v for v in function.__defaults__ or ())


def _replace(number: int, values: dict[Any, Any] | list[Any]) -> None:
    """Put None in the place of the object with this `id`."""
    for place, value in list(values.items() if isinstance(values, dict) else enumerate(values)):
        if id(value) == number:
            values[place] = None


def set_deterministic(wanted: bool) -> None:
    """Make PyTorch use deterministic kernels only, and raise where it has none. Call before using a GPU.

    On a CPU results are the same bits either way.
    """
    if wanted:
        # Otherwise cuBLAS may use the workspaces of several streams in any order.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(wanted)
