"""What a model costs: its parameters, and the multiply-accumulates of one forward pass."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode


def count_parameters(module: nn.Module, *, trainable: bool = False) -> int:
    """Count a module's parameters, shared ones once; with `trainable` only those that get a gradient."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trainable)


def count_macs(module: nn.Module, *inputs: Any) -> int:
    """Count the multiply-accumulates of `module(*inputs)` in products and convolutions.

    Runs on the meta device: shapes only, no arithmetic, whatever the size. Bilinear sampling, norms and
    other elementwise work are not counted, as is usual.

    >>> count_macs(ResNetConfig(depth=50).build(), torch.empty(1, 3, 800, 1333))
    87333299200
    """
    state = {name: t.detach().to("meta") for name, t in (*module.named_parameters(), *module.named_buffers())}
    on_meta = tuple(value.to("meta") if isinstance(value, Tensor) else value for value in inputs)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        functional_call(module, state, on_meta)
    return counter.get_total_flops() // 2
