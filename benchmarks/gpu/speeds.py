"""Times of the kernels, forward and backward, beside torch's operations (`benchmarks.kernels`)."""

import torch

from benchmarks.gpu.bench import Bench, Lines
from benchmarks.gpu.right import kernels_can_run, sizes_of
from benchmarks.kernel_operations import OPERATIONS, Variant
from benchmarks.kernels import LARGEST_DIFFERENCE, measure_case


def measure_kernels(bench: Bench) -> Lines:
    """Milliseconds of torch, the kernel and its deterministic form, by turns; wrong ones are left out."""
    if not kernels_can_run(bench):
        yield {"name": "no kernel can run here", "why": "Triton needs a GPU, or TRITON_INTERPRET=1"}
        return
    gpu = bench.scale.device.type == "cuda"
    dtype, kind = (torch.bfloat16, "bfloat16") if gpu else (torch.float32, "float32")
    variants: tuple[Variant, ...] = ("torch", "triton", "deterministic", *(("compile",) if gpu else ()))
    for shape, sizes in sizes_of(bench).items():
        for name, make in OPERATIONS.items():
            if name in bench.wrong:
                yield {"name": name, "variant": shape, "why": "wrong, so not timed"}
                continue
            case = make(sizes, dtype, bench.scale.device)
            for row in measure_case(name, case, variants, bench.scale.rounds, LARGEST_DIFFERENCE[kind]):
                yield {
                    "name": name,
                    "variant": f"{row['variant']}, {shape}",
                    "of_torch": row["torch_over_this"],
                    "ms": row["median_ms"],
                    "least_ms": row["min_ms"],
                    "most_ms": row["max_ms"],
                    "rounds": row["n"],
                    "difference": row["difference"],
                }
