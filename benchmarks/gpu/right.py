"""Kernels beside torch's operations, before anything is timed: no speed of a wrong kernel is printed."""

from dataclasses import replace

import torch

from benchmarks.gpu.bench import Bench, Lines
from benchmarks.kernel_operations import OPERATIONS, SIZES, Case, Sizes
from benchmarks.kernels import LARGEST_DIFFERENCE, differentiate
from benchmarks.timing import Task
from qdet.kernels.agreement import relative_error
from qdet.kernels.choice import has_triton, interpreting, kernels

TOY = SIZES["toy"]
SMALL = {
    "like a step": replace(
        TOY, images=2, queries=5, groups=2, points_in=8, points_out=16, heads=2, objects=3
    ),
    "maps of one cell": replace(TOY, height=4, width=4),
    "one point": replace(TOY, points_in=1, points_out=1),
    "an odd width": replace(TOY, channels=12, points_in=5, points_out=7),
    "one class, no object": replace(TOY, classes=1, objects=0),
    "many queries": replace(TOY, queries=33),
}
"""Shapes at which a kernel may go wrong."""
REPEATS = 10


def kernels_can_run(bench: Bench) -> bool:
    """Whether Triton is there, with a GPU or its interpreter."""
    return has_triton() and (bench.scale.device.type == "cuda" or interpreting())


def check_kernels(bench: Bench) -> Lines:
    """Differences of results and gradients from torch's in fp32, and whether fixed point repeats its bits.

    A kernel is also compared with its definition in float64 before it first runs (`qdet.kernels.agreement`).
    """
    if not kernels_can_run(bench):
        yield {"name": "no kernel can run here", "why": "Triton needs a GPU, or TRITON_INTERPRET=1"}
        return
    small = SMALL if bench.scale.device.type == "cuda" else {"toy": TOY}
    for name, make in OPERATIONS.items():
        for shape, sizes in small.items():
            yield from check_case(bench, name, shape, make(sizes, torch.float32, bench.scale.device))


def check_case(bench: Bench, name: str, shape: str, case: Case) -> Lines:
    """Compare the forms of one kernel on one set of inputs."""
    with kernels("triton"):
        runs = case.runs()
    if not runs:
        bench.wrong.add(name)
        yield {
            "name": name,
            "variant": shape,
            "right": False,
            "why": "it does not run, or fails its own check",
        }
        return
    wanted, limit = differentiate(case, case.torch), LARGEST_DIFFERENCE["float32"]
    for variant, task in {"kernel": case.triton, "deterministic": case.deterministic}.items():
        if task is None:
            continue
        found = differentiate(case, task)
        error = max(relative_error(a, b) for a, b in zip(found, wanted, strict=True))
        if not error <= limit:
            bench.wrong.add(name)
        yield {
            "name": name,
            "variant": f"{variant}, {shape}",
            "right": error <= limit,
            "error": error,
            "allowed": limit,
        }
    last = case.deterministic or case.triton
    repeats = REPEATS if bench.scale.device.type == "cuda" else 2
    same = len({fingerprint(case, last) for _ in range(repeats)}) == 1
    if not same:
        bench.wrong.add(name)
    yield {"name": name, "variant": f"same bits {repeats} times, {shape}", "right": same}


def fingerprint(case: Case, task: Task) -> bytes:
    """Return the bytes of the result and of all gradients."""
    return b"".join(t.detach().double().cpu().numpy().tobytes() for t in differentiate(case, task))


def sizes_of(bench: Bench) -> dict[str, Sizes]:
    """Return the shapes at which kernels are timed."""
    if bench.scale.device.type == "cuda":
        return {name: sizes for name, sizes in SIZES.items() if name != "toy"}
    return {"toy": TOY}
