"""What ranks send each other for a check: bytes, and digests of 64 bits. All of it is on the host."""

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import UInt8
from torch import Tensor

from qdet.training.distributed import World


def gather_digests(world: World, *digests: int) -> list[list[int]]:
    """Return all ranks' digests on every rank, each rank's as a list (collective)."""
    table = torch.zeros(world.size, len(digests), dtype=torch.int64)
    table[world.rank] = torch.tensor(digests)
    return world.total(table).tolist()


def send_bytes(world: World, content: bytes | None, *, source: int, target: int) -> bytes | None:
    """Send the `content` of rank `source` to rank `target`, which returns it; the others return None."""
    if source == target or world.rank not in (source, target):
        return content if source == target == world.rank else None
    if content is not None:
        dist.send(torch.tensor([len(content)]), target)
        dist.send(_to_tensor(content), target)
        return None
    size = torch.zeros(1, dtype=torch.int64)
    dist.recv(size, source)
    data = torch.empty(int(size), dtype=torch.uint8)
    dist.recv(data, source)
    return data.numpy().tobytes()


def share_bytes(world: World, content: bytes | None, *, source: int) -> bytes:
    """Return the `content` of rank `source` on every rank (collective)."""
    if world.size == 1:
        assert content is not None
        return content
    size = torch.tensor([0 if content is None else len(content)])
    dist.broadcast(size, source)
    data = torch.empty(int(size), dtype=torch.uint8) if content is None else _to_tensor(content)
    dist.broadcast(data, source)
    return data.numpy().tobytes()


def _to_tensor(content: bytes) -> UInt8[Tensor, " n"]:
    return torch.from_numpy(np.frombuffer(content, np.uint8).copy())
