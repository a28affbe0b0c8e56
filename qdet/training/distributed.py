"""The world a training process lives in: its rank, its device and the few collectives that training needs.

`join()` takes the process group that it finds (Ray makes one), makes one from torchrun's environment, or
makes a world of one. Nothing here knows Ray or DeepSpeed.
"""

import atexit
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import timedelta
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
    """This process among all workers of a run."""

    rank: int
    size: int
    device: torch.device

    @property
    def main(self) -> bool:
        """True on the one rank that logs and writes."""
        return self.rank == 0

    def sum(self, *values: float) -> list[float]:
        """Add each of `values` up over all ranks, in one collective."""
        if self.size == 1:
            return list(values)
        totals = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(totals)
        return totals.tolist()

    def total(self, counts: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
        """Add tensors of one shape up over all ranks (collective)."""
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

        It may take longer than a collective may: rank 0 does it on a thread and meanwhile tells the others,
        in one collective a second, to go on waiting. A `QdetError` in it is raised on every rank, so that
        none waits for one that has given up.
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
    """Enter the process group, which stays for the life of the process if it is made here.

    DeepSpeed remembers the groups it derives from it, so a second run in one process needs the same one.

    Args:
        accelerator: What to train on; `auto` takes the GPU of this process where there is one.
        timeout: Seconds after which a collective without an answer fails.

    Raises:
        ConfigError: `gpu` was asked for and this process sees none.
    """
    device = _device(accelerator)
    if not dist.is_initialized():
        _make_group("nccl" if device.type == "cuda" else "gloo", timedelta(seconds=timeout))
        atexit.register(_leave)
    return World(rank=dist.get_rank(), size=dist.get_world_size(), device=device)


def set_timeout_of_all_groups(seconds: int) -> None:
    """Give every process group this timeout: groups that a library makes start with torch's 30 minutes."""
    from torch.distributed import distributed_c10d as c10d

    for group in list(c10d._world.pg_map):
        c10d._set_pg_timeout(timedelta(seconds=seconds), group)


def _still(running: Future[Any]) -> bool:
    """Wait for a task for a second at most, and say whether it still runs."""
    return not wait((running,), timeout=1.0).done


def _device(accelerator: str) -> torch.device:
    if accelerator == "gpu" and not torch.cuda.is_available():
        raise ConfigError("--train.accelerator gpu: this machine shows no CUDA device; use cpu or auto")
    if accelerator == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


def _make_group(backend: str, timeout: timedelta) -> None:
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        store, rank, size = next(iter(rendezvous("env://", timeout=timeout)))
        if os.environ.get("LOCAL_WORLD_SIZE") == os.environ["WORLD_SIZE"]:
            # torchrun gives workers that it starts again the store of those before, in which gloo would find
            # the addresses of the dead. On several machines TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 prevents it:
            # there the counts of restarts need not agree.
            store = PrefixStore(f"start_{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
        dist.init_process_group(backend, timeout=timeout, store=store, rank=rank, world_size=size)
    else:
        dist.init_process_group(backend, timeout=timeout, store=HashStore(), rank=0, world_size=1)


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def set_deterministic(wanted: bool) -> None:
    """Have PyTorch take deterministic kernels alone, and raise where it has none; before a GPU is used.

    A CPU gives the same bits with and without.
    """
    if wanted:
        # cuBLAS would use several streams' workspaces in any order.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(wanted)
