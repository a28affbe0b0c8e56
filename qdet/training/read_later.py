"""Numbers on the device that the host reads one step later, when they have long arrived."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def read_later(values: Sequence[Float[Tensor, ""]], device: torch.device) -> Callable[[], list[float]]:
    """Start to copy scalars from `device` to the host; return a function that returns them.

    That waits for what the device was given before, not for what it has been given since.
    """
    together = torch.stack([value.detach().to(device, torch.float64) for value in values])
    if device.type != "cuda":
        return together.tolist
    on_host = torch.empty(together.shape, dtype=together.dtype, pin_memory=True)
    on_host.copy_(together, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record()

    def read() -> list[float]:
        arrived.synchronize()
        return on_host.tolist()

    return read
