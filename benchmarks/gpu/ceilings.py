"""What the card can do at most: all other times are shares of it."""

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.gpu.bench import Bench, Lines
from benchmarks.timing import summarize, take_turns

LAUNCHES = 1000


def measure_ceilings(bench: Bench) -> Lines:
    """Matrix products, memory, launches, atomic additions, copies from pinned memory."""
    scale, device = bench.scale, bench.scale.device
    side, count = scale.matmul, scale.copied // 4
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    source, target = (torch.zeros(count, device=device) for _ in range(2))
    pinned = torch.zeros(count // 4, pin_memory=device.type == "cuda")
    index = torch.randint(0, 1 << 16, (count // 16,), device=device)
    sums, ones = torch.zeros(1 << 16, device=device), torch.ones(count // 16, device=device)
    one = torch.zeros(1, device=device)
    tasks: dict[str, Callable[[], object]] = {
        "bf16 matmul": lambda: a @ b,
        "copy": lambda: target.copy_(source),
        "launches": lambda: launch_often(one),
        "fp32 atomics": lambda: sums.index_add_(0, index, ones),
        "from pinned memory": lambda: target[: count // 4].copy_(pinned, non_blocking=True),
    }
    amounts = {
        "bf16 matmul": ("TFLOP/s", 2e-12 * side**3),
        "copy": ("GB/s", 8e-9 * count),
        "launches": ("million/s", 1e-6 * LAUNCHES),
        "fp32 atomics": ("G/s", 1e-9 * len(index)),
        "from pinned memory": ("GB/s", 1e-9 * count),
    }
    for name, task in tasks.items():
        found = summarize(take_turns({name: task}, device, rounds=scale.rounds, warmup=3)[name])
        unit, amount = amounts[name]
        reached = amount / (1e-3 * found["ms"])
        bench.tflops = reached if name == "bf16 matmul" else bench.tflops
        bench.gb_per_s = reached if name == "copy" else bench.gb_per_s
        yield {"name": name, "reached": reached, "unit": unit} | found


def launch_often(tensor: Tensor) -> None:
    """Give the device many operations with nothing to do."""
    for _ in range(LAUNCHES):
        tensor.add_(1)
