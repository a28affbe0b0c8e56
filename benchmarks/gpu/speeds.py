"""Times of the kernels, forward and backward, beside what runs where there are none."""

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.gpu.bench import Bench, Lines
from benchmarks.gpu.operations import Operation, timed_cases
from benchmarks.gpu.right import kernels_can_run
from benchmarks.gpu.timing import summarize, take_turns


def measure_kernels(bench: Bench) -> Lines:
    """Milliseconds of torch, the kernel and its deterministic form, by turns; wrong ones are left out."""
    if not kernels_can_run(bench):
        yield {"name": "no kernel can run here", "why": "Triton needs a GPU, or TRITON_INTERPRET=1"}
        return
    for case in timed_cases(bench.scale):
        if case.operation in bench.wrong:
            yield {"name": case.operation, "variant": case.name, "why": "wrong, so not timed"}
            continue
        ways = {"torch": case.torch, "kernel": case.kernel, "deterministic": case.deterministic}
        tasks = {way: forward_and_backward(operation, case.inputs) for way, operation in ways.items()}
        times = take_turns(tasks, bench.scale.device, rounds=bench.scale.rounds, warmup=2)
        shown = {way: summarize(milliseconds) for way, milliseconds in times.items()}
        for way, found in shown.items():
            yield {
                "name": case.operation,
                "variant": f"{way}, {case.name}",
                "of_torch": shown["torch"]["ms"] / found["ms"],
                "gb_per_s": 1e-6 * case.bytes / found["ms"],
            } | found


def forward_and_backward(operation: Operation, inputs: tuple[Tensor, ...]) -> Callable[[], object]:
    """Return a task that computes a result and all gradients."""
    held = [t.detach().clone().requires_grad_() for t in inputs]

    def run() -> object:
        result = operation(*held)
        return torch.autograd.grad(result.sum(), held)

    return run
