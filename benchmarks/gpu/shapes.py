"""Padded shapes as they follow each other in an epoch: what a step makes of them, and a compiled one."""

import time

import torch

from benchmarks.gpu.bench import Bench, Lines
from benchmarks.gpu.scenes import Scene, TrainingStep, build_detector, make_scene
from benchmarks.gpu.steps import with_kernels
from benchmarks.timing import synchronize


def measure_shapes(bench: Bench) -> Lines:
    """Images per second over all shapes in turn, the first time and the second."""
    scale = bench.scale
    batch, _, _, queries = next(iter(scale.steps.values()))
    scenes = [make_scene((batch, *hw, queries), scale.device, seed=n) for n, hw in enumerate(scale.planned)]
    eager = TrainingStep(build_detector(scale, queries), scale)
    yield from run(bench, "qdet, torch" if bench.wrong else "qdet, kernels", eager, scenes, queries)
    torch._dynamo.reset()  # forget the graphs of other sections: those of these shapes are counted
    compiled = TrainingStep(build_detector(scale, queries), scale, compiled={"dynamic": True})
    yield from run(bench, "qdet, compiled", compiled, scenes, queries)


def run(bench: Bench, name: str, step: TrainingStep, scenes: list[Scene], queries: int) -> Lines:
    """Pass twice through the batches."""
    choice = "torch" if "kernels" not in name else "auto"
    for turn in ("first pass", "second pass"):
        graphs = compiled_graphs()
        begin = time.perf_counter()
        for scene in scenes:
            with_kernels(choice, step.on(scene, queries=queries))()
        synchronize(bench.scale.device)
        seconds = time.perf_counter() - begin
        images = sum(len(scene.sizes_hw) for scene in scenes)
        yield {
            "name": turn,
            "variant": name,
            "shapes": len({scene.images.shape for scene in scenes}),
            "images_per_s": images / seconds,
            "ms": 1e3 * seconds / len(scenes),
            "graphs_compiled": compiled_graphs() - graphs,
        }


def compiled_graphs() -> int:
    """Return how many graphs this process has compiled."""
    from torch._dynamo.utils import counters

    return counters["stats"]["unique_graphs"]
