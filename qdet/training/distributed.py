"""The ranks of a training: this process's rank and device, and the few collectives that training needs.

`join()` uses an existing process group (Ray makes one), makes one from torchrun's environment, or makes a
group of one process. Nothing here knows Ray or DeepSpeed.
"""

import atexit
import gc
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import timedelta
from types import CellType, FunctionType
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Int
from torch import Tensor
from torch._C._distributed_c10d import HashStore, PrefixStore
from torch.distributed.rendezvous import rendezvous

from qdet.errors import ConfigError, QdetError

T = TypeVar("T")


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
        totals = torch.tensor(values, dtype=torch.float64, device=self.device)
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
        """Return all ranks' values in order on rank 0, and an empty list elsewhere (collective)."""
        if self.size == 1:
            return [value]
        gathered: list[Any] = [None] * self.size if self.main else []
        dist.gather_object(value, gathered or None)
        return gathered

    def broadcast(self, value: Any) -> Any:
        """Return rank 0's `value` on every rank (collective)."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box)
        return box[0]

    def on_main(self, task: Callable[[], T]) -> T:
        """Run `task`, which uses no device, on rank 0 and return its value on every rank (collective).

        It may take longer than the timeout of a collective: rank 0 runs it on a thread and meanwhile, in one
        collective a second, has the others keep waiting. A `QdetError` is raised on every rank, so that no
        rank waits for one that has failed.
        """
        outcome: tuple[T | None, QdetError | None] = (None, None)
        if self.size == 1:
            return task()
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(task) if self.main else None
            while self.sum(float(running is not None and _still(running)))[0]:
                pass
        if running is not None:
            try:
                outcome = (running.result(), None)
            except QdetError as error:
                outcome = (None, error)
        value, error = self.broadcast(outcome)
        if error is not None:
            raise error
        return value

    def barrier(self) -> None:
        """Wait for all ranks (collective)."""
        if self.size > 1:
            dist.barrier()


def join(accelerator: Literal["auto", "gpu", "cpu"], *, timeout: int) -> World:
    """Enter the process group. One that is made here stays until the process ends.

    DeepSpeed keeps the groups it derives from it, so a second run in one process needs the same one.

    Args:
        accelerator: What to train on; `auto` uses the GPU of this process if it has one.
        timeout: Seconds after which a collective without an answer fails.

    Raises:
        ConfigError: `gpu` was requested and this process sees none.
    """
    device = _device(accelerator)
    if not dist.is_initialized():
        _make_group("nccl" if device.type == "cuda" else "gloo", timedelta(seconds=timeout))
        atexit.register(_leave)
    return World(rank=dist.get_rank(), size=dist.get_world_size(), device=device)


def set_timeout_of_all_groups(seconds: int) -> None:
    """Set the timeout of every process group: those that libraries make start with torch's 30 minutes."""
    from torch.distributed import distributed_c10d as c10d

    set_timeout = getattr(c10d, "set_timeout", None) or c10d._set_pg_timeout  # public since torch 2.14
    for group in list(c10d._world.pg_map):
        set_timeout(timedelta(seconds=seconds), group)


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


def _make_group(backend: str, timeout: timedelta) -> None:
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ and not _is_alone():
        store, rank, size = next(iter(rendezvous("env://", timeout=timeout)))
        if os.environ.get("LOCAL_WORLD_SIZE") == os.environ["WORLD_SIZE"]:
            # torchrun gives restarted workers the store of their predecessors, in which gloo would find the
            # addresses of dead processes. On several machines, where restart counts may differ,
            # TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 prevents it.
            store = PrefixStore(f"start_{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
        dist.init_process_group(backend, timeout=timeout, store=store, rank=rank, world_size=size)
    else:
        dist.init_process_group(backend, timeout=timeout, store=HashStore(), rank=0, world_size=1)


def _is_alone() -> bool:
    """Whether the environment speaks of one process, as container platforms do, and of no place to meet."""
    return os.environ["WORLD_SIZE"] == "1" and not {"MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys()


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

    groups = [group for group in c10d._world.pg_map if dist.get_backend(group) == "gloo"]
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
