"""The matching of a step: costs on the device, their copy, the assignment on the host or as a kernel."""

import torch
from scipy.optimize import linear_sum_assignment

from benchmarks.gpu.bench import Bench, Lines
from benchmarks.gpu.right import kernels_can_run
from benchmarks.gpu.scenes import CLASSES, make_targets
from benchmarks.matching import ways_to_match
from benchmarks.timing import summarize, synchronize, take_turns
from qdet.kernels.assignment import NAME
from qdet.losses import SetLossConfig
from qdet.types import Predictions


def measure_matching(bench: Bench) -> Lines:
    """Milliseconds of the padded definition, and of costs by object with scipy and the kernel, by turns."""
    scale, device = bench.scale, bench.scale.device
    _, height, width, queries = next(iter(scale.steps.values()))
    criterion = SetLossConfig().build(CLASSES).to(device)
    for name, counts in scale.counts.items():
        generator = torch.Generator(device).manual_seed(bench.seed)
        shape = (len(counts), height, width, queries)
        targets = make_targets(counts, shape, device, generator)
        every = make_targets((queries,) * len(counts), shape, device, generator).boxes_xyxy
        boxes = every.view(len(counts), queries, 4)
        logits = [
            torch.randn(len(counts), queries, CLASSES, device=device, generator=generator) - 4
            for _ in range(scale.stages)
        ]
        stages = [Predictions(one, boxes) for one in logits]
        sizes = torch.tensor([[height, width]] * len(counts), device=device)
        ways = ways_to_match(criterion, stages, targets, sizes)
        if kernels_can_run(bench) and "kernel" not in ways:
            bench.wrong.add(NAME)
            why = "it does not run, or finds other pairs than scipy"
            yield {"name": name, "variant": "kernel", "right": False, "why": why}
        times = take_turns(ways, device, rounds=scale.rounds, warmup=2)
        for variant, milliseconds in times.items():
            yield {"name": name, "variant": variant, "objects": sum(counts)} | summarize(milliseconds)
    yield from measure_copy(bench, queries)


def measure_copy(bench: Bench, queries: int) -> Lines:
    """Milliseconds until costs of one step are on the host, and of scipy's assignment of one image."""
    scale, device = bench.scale, bench.scale.device
    costs = torch.rand(scale.stages, queries, sum(scale.counts["as in COCO"]), device=device)
    synchronize(device)
    one = costs[0, :, :7].cpu().numpy()
    tasks = {"copy of costs": costs.cpu, "assignment of an image": lambda: linear_sum_assignment(one)}
    for name, task in tasks.items():
        times = take_turns({name: task}, device, rounds=scale.rounds, warmup=2)
        yield {"name": name} | summarize(times[name])
