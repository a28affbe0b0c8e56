"""Whether a tensor is computed at once, and where: not traced, exported, compiled or faked."""

import torch
from torch import Tensor, nn


def computes_now(x: Tensor) -> bool:
    """Whether operations on `x` run now."""
    return type(x) in (Tensor, nn.Parameter) and not torch.compiler.is_compiling()


def computes_on_a_cpu(x: Tensor) -> bool:
    """Whether operations on `x` run now and on a CPU, where what is faster or breaks differs from GPUs."""
    return computes_now(x) and x.device.type == "cpu"
