"""Stochastic depth: skip a residual branch for whole samples, at random, while training.

Huang et al., ECCV 2016, https://arxiv.org/abs/1603.09382, section 3.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class DropPath(nn.Module):
    """Zero a branch with probability `rate` per sample and divide the survivors by `1 - rate`.

    The expected output stays that of the branch, so nothing changes when evaluating.
    """

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"rate must be at least 0 and below 1, got {rate}")
        self.rate = rate

    def forward(self, branch: Float[Tensor, "B ..."]) -> Float[Tensor, "B ..."]:
        """Return `branch` with some of its samples zeroed."""
        if not self.training or self.rate == 0:
            return branch
        keep = 1 - self.rate
        shape = (branch.shape[0],) + (1,) * (branch.ndim - 1)
        kept = torch.rand(shape, device=branch.device, dtype=torch.float32) < keep
        return branch * (kept.to(branch.dtype) / keep)

    def extra_repr(self) -> str:
        """Show the rate when the module is printed."""
        return f"rate={self.rate:.3g}"
