"""What passes between machines: who can connect to whom, and how many bytes in a second.

Connections are proved with a secret of this one examination, as those of a training are. Bandwidth is
measured between neighbours of a ring, which is where gloo and NCCL send most.
"""

import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from qdet.training.joining.channel import connect
from qdet.training.joining.host import Host

ALL_PAIRS = 16
"""Machines of which every pair is tried; of more, each tries so many of those that follow it."""
CONNECT = 3.0
"""Seconds to connect."""
MESSAGE = 16 * 2**20
"""Bytes of a message."""
MESSAGES = 4

Address = tuple[str, int]
Pair = tuple[int, int]


def choose_targets(count: int) -> list[list[int]]:
    """Return for each of `count` machines those that it connects to.

    >>> choose_targets(3)
    [[1, 2], [0, 2], [0, 1]]
    """
    near = min(count - 1, ALL_PAIRS - 1)
    return [sorted((one + step) % count for step in range(1, near + 1)) for one in range(count)]


def choose_rounds(count: int) -> list[list[Pair]]:
    """Return the neighbours of a ring of `count` machines in rounds in which each takes part once at most.

    >>> choose_rounds(3)
    [[(0, 1)], [(1, 2)], [(2, 0)]]
    """
    ring = [(one, (one + 1) % count) for one in range(count if count > 2 else count - 1)]
    odd = count % 2 and count > 2
    last = [ring.pop()] if odd else []
    return [pairs for pairs in (ring[0::2], ring[1::2], last) if pairs]


def reach(addresses: Sequence[Address], secret: bytes) -> list[str | None]:
    """Connect to other machines; return for each why that fails, None where it does not."""
    return [_try_to_connect(address, secret) for address in addresses]


def _try_to_connect(address: Address, secret: bytes) -> str | None:
    try:
        connect(address, secret, timeout=CONNECT).close()
    except OSError as error:
        return f"{error.strerror or error}"
    return None


def join_group(
    rank: int, size: int, host: Host | Address, secret: bytes, *, seconds: float
) -> tuple[str, Any]:
    """Make a process group of all machines; return its backend, and its store, to be kept (collective).

    Args:
        rank: Of this machine.
        size: Machines.
        host: Where they meet: what rank 0 hosts, and for the others its address.
        secret: That they share.
        seconds: After which it fails.
    """
    import torch
    import torch.distributed as dist

    from qdet.training.joining.rendezvous import host_store, join_when_up, prefer_interface

    if isinstance(host, Host):
        prefer_interface(host.address[0])
        store = host_store(host, timeout=seconds)
    else:
        prefer_interface(host[0])
        store = join_when_up(lambda: host, secret, seconds)
    everyone = timedelta(seconds=seconds)
    store.set(f"gpus/{rank}", str(int(torch.cuda.is_available())))
    gpu = all(int(store.get(f"gpus/{other}")) for other in range(size))
    backend = "nccl" if gpu else "gloo"
    dist.init_process_group(backend, timeout=everyone, store=store, rank=rank, world_size=size)
    return backend, store


def measure(rank: int, rounds: Sequence[Sequence[Pair]], backend: str) -> dict[Pair, float]:
    """Return bytes per second of the pairs in which this machine sends (collective)."""
    import torch
    import torch.distributed as dist

    device = torch.device("cuda", 0) if backend == "nccl" else torch.device("cpu")
    content, answer = torch.zeros(MESSAGE, dtype=torch.uint8, device=device), torch.zeros(1, device=device)
    found: dict[Pair, float] = {}
    for pairs in rounds:
        dist.all_reduce(answer)  # so that all begin together; the first one opens the connections
        for source, target in pairs:
            if rank == source:
                dist.send(content, target)
                dist.recv(answer, target)
                started = time.perf_counter()
                for _ in range(MESSAGES):
                    dist.send(content, target)
                dist.recv(answer, target)
                answer.item()  # waits for the device
                found[source, target] = MESSAGE * MESSAGES / (time.perf_counter() - started)
            if rank == target:
                for count in (1, MESSAGES):
                    for _ in range(count):
                        dist.recv(content, source)
                    dist.send(answer, source)
    return found
