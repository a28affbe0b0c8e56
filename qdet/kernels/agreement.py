"""How far a kernel is from its definition: results and gradients, against float64."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Operation = Callable[..., Tensor]

LIMITS = {torch.bfloat16: 3e-2, torch.float32: 1e-4, torch.float64: 1e-9}
"""Largest error that rounding of each type explains, relative to the norm of a tensor."""


def measure_errors(
    kernel: Operation, definition: Operation, inputs: Sequence[Tensor], grad: Tensor | None = None
) -> tuple[float, ...]:
    """Return the relative errors of the result, then of the gradient of each of the `inputs`.

    The definition gets the same numbers as float64. `grad` is that of the result, by default a wave.
    """
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(inputs[0].device.type, enabled=False),
    ):
        found = _run(kernel, [t.detach().clone().requires_grad_() for t in inputs], grad)
        wanted = _run(definition, [t.detach().double().requires_grad_() for t in inputs], grad)
    return tuple(relative_error(a, b) for a, b in zip(found, wanted, strict=True))


def check_agreement(
    kernel: Operation,
    definition: Operation,
    inputs: Sequence[Tensor],
    *,
    rounded: torch.dtype = torch.float64,
) -> None:
    """Compare a kernel with its definition; `rounded` is the dtype of a result narrower than the inputs.

    Raises:
        ArithmeticError: They differ by more than rounding.
    """
    errors = measure_errors(kernel, definition, inputs)
    limit = max(LIMITS[dtype] for dtype in (rounded, *(t.dtype for t in inputs)))
    if not all(error <= limit for error in errors):
        raise ArithmeticError(
            f"errors of {', '.join(f'{e:.1e}' for e in errors)}, at most {limit:.0e} allowed"
        )


def relative_error(found: Tensor, wanted: Tensor) -> float:
    """Return the norm of the difference, relative to that of `wanted`."""
    difference = (found.double() - wanted.double()).norm()
    return (difference / wanted.double().norm().clamp(min=1e-300)).item()


def wave(*shape: int, like: Tensor, offset: float = 0.0) -> Tensor:
    """Return numbers between -1 and 1 that are the same in every run and draw no random ones."""
    count = torch.Size(shape).numel()
    numbers = torch.arange(count, dtype=torch.float64, device=like.device)
    return torch.sin(numbers * 12.9898 + offset).view(shape).to(like.dtype)


def _run(operation: Operation, inputs: Sequence[Tensor], grad: Tensor | None) -> tuple[Tensor, ...]:
    result = operation(*inputs)
    grad = wave(*result.shape, like=result, offset=0.7) if grad is None else grad.to(result.dtype)
    return result.detach(), *torch.autograd.grad(result, inputs, grad)
