"""Sums that programs add to in any order: fast ones in floating point, or repeatable ones in fixed point.

Additions of integers have no order, so that a sum in fixed point is the same bits in every run.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

_LEAST_EXPONENT = -60
"""Where all gradients are below 2^-60 fewer bits are left, as the unit must be finite in float32."""


@dataclass(frozen=True)
class ScatteredSums:
    """A buffer that kernels add to atomically."""

    sums: Shaped[Tensor, "*shape"]
    unit: Float[Tensor, ""]
    """What one stands for in fixed point; unused otherwise."""
    fixed: bool

    @classmethod
    def make(
        cls,
        like: Tensor,
        grad: Float[Tensor, "..."],
        *,
        most_terms: int,
        deterministic: bool,
        onto: Float[Tensor, "*shape"] | None = None,
    ) -> "ScatteredSums":
        """Return zeros in the shape of `like` for products of `grad` with weights of at most 1.

        Of `grad` only the largest number matters. `most_terms` is how many of them meet in one cell at most.
        What is not deterministic may be added `onto` earlier sums, in place.
        """
        wide = torch.float64 if like.dtype == torch.float64 else torch.float32
        if not deterministic:
            sums = torch.zeros_like(like, dtype=wide) if onto is None else onto
            return cls(sums, grad.new_ones((), dtype=wide), False)
        bits = 61 - most_terms.bit_length()
        largest = grad.abs().amax().to(wide)
        exponent = torch.frexp(largest).exponent.clamp(min=_LEAST_EXPONENT)
        unit = torch.exp2((bits - exponent).to(wide))
        unit = torch.where(
            largest.isfinite(), unit, torch.nan
        )  # no integer says that a gradient is not finite
        return cls(torch.zeros_like(like, dtype=torch.int64), unit, True)

    def read(self, dtype: torch.dtype) -> Float[Tensor, "*shape"]:
        """Return the sums in floating point."""
        return (self.sums.double().div_(self.unit.double()) if self.fixed else self.sums).to(dtype)
