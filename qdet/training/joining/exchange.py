"""Values and arrays between ranks as JSON and safetensors: what a rank receives is read, never unpickled.

W ranks
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import UInt8
from torch import Tensor

from qdet import errors
from qdet.errors import QdetError

_HOST = torch.device("cpu")


def gather_json(value: Any, device: torch.device) -> list[Any]:
    """Return all ranks' values in order on rank 0, and an empty list elsewhere (collective).

    They arrive as JSON has them: tuples as lists, keys as text.
    """
    return [json.loads(content) for content in _gather(json.dumps(value).encode(), device)]


def gather_arrays(arrays: Mapping[str, np.ndarray], device: torch.device) -> list[dict[str, np.ndarray]]:
    """Return all ranks' arrays by name, in order on rank 0, and an empty list elsewhere (collective)."""
    from safetensors.numpy import load, save

    own = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    return [load(content) for content in _gather(own, device)]


def exchange_arrays(parts: Sequence[Mapping[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
    """Send each rank its part; return what all ranks, in order, have sent this one (collective)."""
    from safetensors.numpy import load, save

    contents = [save({name: np.ascontiguousarray(array) for name, array in part.items()}) for part in parts]
    sizes = torch.tensor([len(content) for content in contents])
    coming = torch.empty_like(sizes)
    dist.all_to_all_single(coming, sizes)
    received = torch.empty(int(coming.sum()), dtype=torch.uint8)
    dist.all_to_all_single(
        received, _to_tensor(b"".join(contents), int(sizes.sum()), _HOST), coming.tolist(), sizes.tolist()
    )
    return [load(_to_bytes(part)) for part in received.split(coming.tolist())]


def broadcast_json(value: Any, device: torch.device) -> Any:
    """Return rank 0's `value` on every rank, as JSON has it (collective)."""
    content = json.dumps(value).encode() if dist.get_rank() == 0 else b""
    size = torch.tensor([len(content)], device=device)
    dist.broadcast(size, 0)
    data = _to_tensor(content, int(size), device)
    dist.broadcast(data, 0)
    return json.loads(_to_bytes(data))


def describe_error(error: Exception, rank: int = 0) -> dict[str, Any]:
    """Return a rank's error as JSON: the class of qdet.errors that it is, or none, its message."""
    kinds = (kind for kind in type(error).__mro__ if kind.__module__ == errors.__name__)
    kind = next(kinds, None)
    said = str(error) if kind else f"rank {rank} failed: {type(error).__name__}: {error}"
    transient = isinstance(error, QdetError) and error.transient
    return {"kind": kind.__name__ if kind else "", "said": said, "transient": transient}


def restore_error(described: Mapping[str, Any]) -> Exception:
    """Return the error of a rank for another one: of its own class if that is one of qdet.errors."""
    kind = getattr(errors, described["kind"] or "RuntimeError", None)
    if not (isinstance(kind, type) and issubclass(kind, QdetError)):
        return RuntimeError(described["said"])
    restored = kind(described["said"])
    restored.transient = described["transient"]
    return restored


def _gather(content: bytes, device: torch.device) -> list[bytes]:
    """Return the bytes of all ranks on rank 0, and an empty list elsewhere."""
    ranks, main = dist.get_world_size(), dist.get_rank() == 0
    sizes = torch.zeros(ranks, dtype=torch.int64, device=device)
    sizes[dist.get_rank()] = len(content)
    dist.all_reduce(sizes)
    longest = int(sizes.max())
    own = _to_tensor(content, longest, device)
    parts = [torch.empty_like(own) for _ in range(ranks)] if main else None
    dist.gather(own, parts, 0)
    return [_to_bytes(part[:size]) for part, size in zip(parts or (), sizes.tolist(), strict=False)]


def _to_tensor(content: bytes, size: int, device: torch.device) -> UInt8[Tensor, " size"]:
    padded = np.zeros(size, np.uint8)
    padded[: len(content)] = np.frombuffer(content, np.uint8)
    return torch.from_numpy(padded).to(device)


def _to_bytes(data: UInt8[Tensor, " n"]) -> bytes:
    return data.cpu().numpy().tobytes()
