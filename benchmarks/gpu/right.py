"""Kernels against their definitions, before anything is timed: no speed of a wrong kernel is printed."""

import torch
from torch import Tensor

from benchmarks.gpu.bench import Bench, Lines
from benchmarks.gpu.operations import Case, odd_cases
from qdet.kernels.agreement import LIMITS, measure_errors
from qdet.kernels.choice import has_triton, interpreting

REPEATS = 10


def kernels_can_run(bench: Bench) -> bool:
    """Whether Triton is there, with a GPU or its interpreter."""
    return has_triton() and (bench.scale.device.type == "cuda" or interpreting())


def check_kernels(bench: Bench) -> Lines:
    """Errors of results and gradients against float64, and whether `deterministic` repeats its bits."""
    if not kernels_can_run(bench):
        yield {"name": "no kernel can run here", "why": "Triton needs a GPU, or TRITON_INTERPRET=1"}
        return
    for case in odd_cases(bench.scale):
        for variant in ("kernel", "deterministic"):
            errors = measure_errors(getattr(case, variant), case.definition, case.inputs)
            limit = max(LIMITS[t.dtype] for t in case.inputs)
            right = all(error <= limit for error in errors)
            if not right:
                bench.wrong.add(case.operation)
            yield {
                "name": case.operation,
                "variant": f"{variant}, {case.name}",
                "right": right,
                "error": max(errors),
                "allowed": limit,
            }
        repeats = REPEATS if bench.scale.device.type == "cuda" else 2
        same = len({fingerprint(case) for _ in range(repeats)}) == 1
        if not same:
            bench.wrong.add(case.operation)
        yield {"name": case.operation, "variant": f"same bits {repeats} times, {case.name}", "right": same}


def fingerprint(case: Case) -> bytes:
    """Return the bytes of the result and of all gradients of the deterministic kernel."""
    inputs = [t.detach().clone().requires_grad_() for t in case.inputs]
    result = case.deterministic(*inputs)
    tensors: tuple[Tensor, ...] = (result, *torch.autograd.grad(result.float().sum(), inputs))
    return b"".join(t.detach().float().cpu().numpy().tobytes() for t in tensors)
