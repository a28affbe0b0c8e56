"""Whether a tensor is computed at once, on a CPU: not traced, exported, compiled or faked."""

import torch
from torch import Tensor, nn


def computes_on_a_cpu(x: Tensor) -> bool:
    """Whether operations on `x` run now and on a CPU, where what is faster or breaks differs from GPUs."""
    plain = type(x) in (Tensor, nn.Parameter) and not torch.compiler.is_compiling()
    return plain and x.device.type == "cpu"
