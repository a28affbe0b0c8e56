"""Whole training steps: the authors' order of operations, ours in torch, with kernels, compiled."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu import authors_order
from benchmarks.gpu.bench import Bench, Lines
from benchmarks.gpu.scale import Scale, Shape
from benchmarks.gpu.scenes import CLASSES, Scene, TrainingStep, build_detector, make_scene
from benchmarks.timing import summarize, synchronize, take_turns
from qdet.kernels.choice import Choice, kernels

Step = Callable[[], object]


def measure_steps(bench: Bench) -> Lines:
    """Images per second of each variant, by turns, at every shape."""
    for name, shape in bench.scale.steps.items():
        scene = make_scene(shape, bench.scale.device, seed=bench.seed)
        flops = count_flops(bench.scale, shape, scene)
        variants, failed = warm_up(make_variants(bench, shape, scene), bench.scale)
        yield from ({"name": name, "variant": variant, "failed": why} for variant, why in failed.items())
        times = take_turns(variants, bench.scale.device, rounds=bench.scale.rounds, warmup=0)
        for variant, milliseconds in times.items():
            found = summarize(milliseconds)
            speed = {
                "images_per_s": 1e3 * shape[0] / found["ms"],
                "tflop_per_s": 1e-9 * flops / found["ms"],
                "share_of_matmul": 1e-9 * flops / found["ms"] / bench.tflops if bench.tflops else None,
            }
            yield {"name": name, "variant": variant, "shape": list(shape)} | speed | found
        yield {"name": name, "variant": "peak memory of all, GB", "gb": peak_memory(bench.scale)}


def make_variants(bench: Bench, shape: Shape, scene: Scene) -> dict[str, Step]:
    """Return the variants of a step, each on a detector of its own with the same weights.

    A variant with wrong kernels is left out; the compiled ones keep torch's operations.
    """
    scale, queries = bench.scale, shape[3]
    found: dict[str, Step] = {
        "authors' order": authors_order.make_step(
            build_detector(scale, queries), scene, CLASSES, bf16=scale.precision == "bf16"
        ),
        "qdet, torch": with_kernels("torch", make_our_step(scale, scene, queries)),
    }
    if not bench.wrong:
        found["qdet, kernels"] = with_kernels("auto", make_our_step(scale, scene, queries))
    found["qdet, compiled"] = make_our_step(scale, scene, queries, compiled={"dynamic": True})
    if scale.compiler == "inductor":  # CUDA graphs are its own
        graphs = {"mode": "reduce-overhead"}
        found["qdet, compiled, graphs"] = make_our_step(scale, scene, queries, compiled=graphs)
    return found


def make_our_step(
    scale: Scale, scene: Scene, queries: int, *, compiled: dict[str, Any] | None = None
) -> Step:
    """Return our step on one batch, in the precision of the scale."""
    step = TrainingStep(build_detector(scale, queries), scale, compiled=compiled)
    return step.on(scene, queries=queries)


def with_kernels(choice: Choice, step: Step) -> Step:
    """Return a step that runs with that choice of kernels."""

    def run() -> object:
        with kernels(choice):
            return step()

    return run


def warm_up(variants: dict[str, Step], scale: Scale) -> tuple[dict[str, Step], dict[str, str]]:
    """Run each variant as often as it needs to settle; return those that run, and why others do not."""
    failed = {}
    for name, step in variants.items():
        try:
            for _ in range(scale.warmup):
                step()
            synchronize(scale.device)
        except Exception as error:  # the compiler's, the card's memory
            failed[name] = f"{type(error).__name__}: {error}"[:500]
    return {name: step for name, step in variants.items() if name not in failed}, failed


def count_flops(scale: Scale, shape: Shape, scene: Scene) -> int:
    """Count the operations of our step, matrix products and convolutions with their backward passes."""
    step = TrainingStep(build_detector(scale, shape[3]), scale)
    with kernels("torch"), FlopCounterMode(display=False) as counter:
        step(scene, queries=shape[3])
    return counter.get_total_flops()


def peak_memory(scale: Scale) -> float:
    """Return the most memory that was allocated since the last call, in GB."""
    if scale.device.type != "cuda":
        return 0.0
    peak = torch.cuda.max_memory_allocated(scale.device) / 1e9
    torch.cuda.reset_peak_memory_stats(scale.device)
    return peak


@contextlib.contextmanager
def emptied(scale: Scale) -> Iterator[None]:
    """Give memory that is not used back to the card after the block."""
    try:
        yield
    finally:
        if scale.device.type == "cuda":
            torch.cuda.empty_cache()
