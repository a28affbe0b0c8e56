"""How far exported models are from PyTorch, how large they are, and how fast onnxruntime is.

    python -m benchmarks.exported_models               # all of them; the table in docs/export.md
    python -m benchmarks.exported_models --only detr   # those whose name contains it

Every detector at its demo size, the published variants and AdaMixer's switches among them, and DETR's demo
behind every backbone; weights are random and lively. Each file is compared with PyTorch in batches of 1, 3
and 8 images of two sizes. Times are of one image of 128 x 160 pixels on one thread, PyTorch and onnxruntime
by turns.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
import tyro

from qdet.backbones import HuggingFaceConfig, ResNetConfig, ResNeXtDCNConfig, SwinConfig
from qdet.detectors import DetectorConfig, DETRConfig
from qdet.errors import ExportError
from qdet.exporting.graphs import Graph, make_inputs
from qdet.exporting.onnx import write_onnx
from qdet.exporting.parity import Difference
from qdet.exporting.program import write_program
from qdet.inference.load import load
from qdet.inference.model import Model
from qdet.inference.runner import Runner
from tests.support.detector_variants import ONE_EACH, VARIANTS
from tests.support.loaded_models import small_model

BACKBONES = {
    "resnet": ResNetConfig(depth=14, width=32, weights=None),
    "resnet, group norm": ResNetConfig().demo(),
    "resnext": ResNetConfig(depth=14, width=32, groups=8, width_per_group=16, weights=None),
    "resnext-dcn": ResNeXtDCNConfig().demo(),
    "swin": SwinConfig().demo(),
    "convnext of transformers": HuggingFaceConfig().demo(),
}


def main(*, only: str = "", repeats: int = 20) -> None:
    """Export every model as ONNX and as a program, and print a row of Markdown for each.

    Args:
        only: Part of the names of the models that are exported.
        repeats: Forward passes that are timed.
    """
    torch.set_num_threads(1)
    print("| model | ONNX: scores | boxes | .pt2: scores | boxes | ONNX MB | PyTorch ms | onnxruntime |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, config in models().items():
        if only in name:
            print(f"| {name} | {measure(small_model(config), repeats)} |", flush=True)


def models() -> dict[str, DetectorConfig]:
    """Return every detector, their variants, then DETR behind every backbone."""
    found: dict[str, DetectorConfig] = {}
    for name in (*ONE_EACH, *VARIANTS):
        config, _ = VARIANTS[name]
        if config not in found.values():
            found[name] = config
    demo = DETRConfig().demo()
    return found | {f"DETR, {name}": replace(demo, backbone=b) for name, b in BACKBONES.items()}


def measure(model: Model, repeats: int) -> str:
    """Export a model twice; return the numbers of its row."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        graph = Graph.of(model.detector, model.description.augment, "batch")
        try:
            onnx = write_onnx(graph, model.description, file, "ONNX")
            program = write_program(graph, model.description, file.with_suffix(".pt2"), ".pt2")
        except ExportError as error:
            return f"{error}"
        eager, ratio = compare_times(model.runner, load(file, device="cpu").runner, repeats)
        megabytes = file.stat().st_size / 1e6
    parts = (differences(onnx), differences(program), f"{megabytes:.1f}", f"{eager:.0f}", f"{ratio:.2f}")
    return " | ".join(parts)


def differences(found: Difference) -> str:
    """Return the largest differences as two cells."""
    return f"{found.scores:.0e} | {found.boxes:.0e}"


def compare_times(eager: Runner, other: Runner, repeats: int) -> tuple[float, float]:
    """Run both by turns; return the median milliseconds of the first, and of the other relative to it."""
    inputs = make_inputs("batch", batch=1, padded_hw=(128, 160), seed=0)
    times: list[list[float]] = [[], []]
    for _ in range(repeats + 2):
        for runner, taken in zip((eager, other), times, strict=True):
            taken.append(clock(lambda runner=runner: runner(*inputs)))  # type: ignore[misc]
    first, second = (statistics.median(taken[2:]) for taken in times)
    return 1e3 * first, second / first


def clock(run: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


if __name__ == "__main__":
    tyro.cli(main)
