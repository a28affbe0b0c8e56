"""Where tests of kernels run: in Triton's interpreter, on any machine that has Triton."""

import pytest
import torch
from torch import Tensor

from qdet.kernels.choice import has_triton, interpreting

interpreted = pytest.mark.skipif(
    not has_triton() or not interpreting(),
    reason="Triton is not installed (it is for Linux), or TRITON_INTERPRET is not 1",
)


def gradients(result: Tensor, *of: Tensor) -> tuple[Tensor, ...]:
    """Gradients of `of` for one of the result that differs from place to place."""
    grad = torch.cos(torch.arange(result.numel(), dtype=torch.float64)).view(result.shape).to(result.dtype)
    return torch.autograd.grad(result, of, grad)
