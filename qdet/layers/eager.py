"""What holds where operations run at once: not traced, exported, compiled or faked."""

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import ParamSpec

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _get_current_dispatch_mode

P = ParamSpec("P")


def computes_on_a_cpu(x: Tensor) -> bool:
    """Whether operations on `x` run now and on a CPU, where what is faster or breaks differs from GPUs."""
    plain = type(x) in (Tensor, nn.Parameter) and not torch.compiler.is_compiling()
    return plain and x.device.type == "cpu"


def cache_tensor(make: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """Cache what a function makes, except while a graph is traced or counted: numbers are missing then."""
    cached = lru_cache(maxsize=16)(make)

    @wraps(make)
    def call(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        traced = torch.compiler.is_compiling() or _get_current_dispatch_mode() is not None
        return make(*args, **kwargs) if traced else cached(*args, **kwargs)

    return call
