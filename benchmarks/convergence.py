"""AP of every detector's demo after equal numbers of steps and after equal compute, for docs/convergence.md.

    make demo                                  # once: renders and converts the images
    python -m benchmarks.convergence           # hours on two cores; finished detectors are skipped
    python -m benchmarks.convergence --only detr_r50 adamixer_r50 --steps 250

All start from the demo's pre-trained Swin and train on its images with the demo's settings; they differ in
the detector and the loss of its job. Results are collected in docs/convergence.json, from which picture and
table are made.
"""

import json
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, SupportsFloat

import numpy as np
import torch
import tyro
from tyro.conf import FlagCreatePairsOff

from qdet.backbones import SwinConfig
from qdet.config import override
from qdet.detectors.complexity import count_macs
from qdet.job import Job
from qdet.tracking import NullTracker
from qdet.training.loop import train
from qdet.training.reporting import LocalReporter, Run
from qdet.zoo import load_job

DOCS = Path(__file__).parents[1] / "docs"
RESULTS = DOCS / "convergence.json"
JOBS = (
    "adamixer_r50",
    "sparse_rcnn_r50_100",
    "dynamic_detr_r50",
    "efficient_detr_r50",
    "deformable_detr_r50",
    "deformable_detr_r50_two_stage",
    "anchor_detr_r50",
    "conditional_detr_r50",
    "dab_detr_r50",
    "smca_r50",
    "detr_r50",
)


def main(
    *,
    steps: int = 625,
    only: tuple[str, ...] = JOBS,
    data: Path = Path("data/demo/shards"),
    seed: int = 0,
) -> None:
    """Train each detector, draw the curves and print the table.

    Args:
        steps: Optimizer steps of 16 images.
        only: Job files to train, in this order.
        data: Shards made by `make demo`.
        seed: Seed of initialisation, data order and augmentation.
    """
    results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    for name in only:
        if results.get(name, {}).get("steps") == steps:
            continue
        job = demo_job(name, data, steps, seed)
        results[name] = measure(job)
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
        print(f"{name}: AP {results[name]['AP'][-1]:.3f} after {steps} steps", flush=True)
    draw(results, DOCS / "convergence.png")
    print(format_table(results))


def demo_job(name: str, data: Path, steps: int, seed: int) -> Job:
    """Return a job's demo with the shared backbone, in one process, evaluated after every epoch."""
    job = load_job(name).demo()
    job = replace(job, detector=replace(job.detector, backbone=SwinConfig().demo()))
    return override(
        job,
        {
            "data.train": str(data / "train"),
            "data.val": str(data / "val"),
            "train.steps": steps,
            "train.seed": seed,
            "train.workers": 1,
            "train.eval_every": 1,
            "train.checkpoint_every": 100_000,
            "eval.pictures": 0,
        },
    )


class ApRecorder(NullTracker):
    """A tracker that records AP by step."""

    def __init__(self) -> None:
        self.ap: dict[int, float] = {}
        self.ap50: dict[int, float] = {}

    def metrics(self, values: Mapping[str, SupportsFloat], step: int) -> None:
        """Record the metrics of an evaluation."""
        if "val/AP" in values:
            self.ap[step], self.ap50[step] = float(values["val/AP"]), float(values["val/AP50"])


def measure(job: Job) -> dict[str, Any]:
    """Train one job; return its AP curve, GMACs per image and CPU seconds."""
    points, begin = ApRecorder(), time.process_time()
    with tempfile.TemporaryDirectory() as store:
        train(job, run=Run(job.name, store), reporter=LocalReporter(), tracker=points)
    size = job.data.augment.max_size
    with torch.device("meta"):
        detector = job.detector.build(len(job.data.open(job.data.train).categories))
    macs = count_macs(detector, torch.empty(1, 3, size, size), torch.tensor([[size, size]]))
    return {
        "steps": job.train.steps,
        "at": sorted(points.ap),
        "AP": [points.ap[s] for s in sorted(points.ap)],
        "AP50": [points.ap50[s] for s in sorted(points.ap)],
        "gmacs_per_image": macs / 1e9,
        "cpu_seconds": round(time.process_time() - begin),
    }


def cumulative_compute(result: dict[str, Any]) -> list[float]:
    """Return the TMACs up to each evaluation; a backward pass counts as two forward passes."""
    return [step * 16 * 3 * result["gmacs_per_image"] / 1e3 for step in result["at"]]


def interpolate_at_equal_compute(results: dict[str, Any]) -> dict[str, float]:
    """Interpolate each AP at the total compute of the cheapest detector."""
    limit = min(cumulative_compute(r)[-1] for r in results.values())
    return {
        name: float(np.interp(limit, [0.0, *cumulative_compute(r)], [0.0, *r["AP"]]))
        for name, r in results.items()
    }


def format_table(results: dict[str, Any]) -> str:
    """Return the table of docs/convergence.md."""
    equal = interpolate_at_equal_compute(results)
    steps = next(iter(results.values()))["steps"]
    lines = [
        f"| job | AP after {steps} steps | AP50 | AP after equal compute | GMACs per image | CPU minutes |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, r in sorted(results.items(), key=lambda item: -item[1]["AP"][-1]):
        cells = (f"{r['AP'][-1]:.3f}", f"{r['AP50'][-1]:.3f}", f"{equal[name]:.3f}")
        cost = (f"{r['gmacs_per_image']:.2f}", f"{r['cpu_seconds'] / 60:.0f}")
        lines.append(" | ".join((f"| `{name}.py`", *cells, *cost)) + " |")
    return "\n".join(lines)


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw AP over steps and over compute into `path`."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 4.6), sharey=True, layout="constrained")
    colors = pyplot.get_cmap("tab20").colors  # type: ignore[attr-defined]
    for color, (name, r) in zip(colors, results.items(), strict=False):
        left.plot(r["at"], r["AP"], color=color, label=name)
        right.plot(cumulative_compute(r), r["AP"], color=color)
    left.set_xlabel("optimizer steps of 16 images")
    right.set_xlabel("trillions of multiply-accumulates, forward and backward")
    left.set_ylabel("AP on 250 held-out images")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.set_ylim(bottom=0)
    figure.legend(loc="outside right center", fontsize=8, frameon=False)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


if __name__ == "__main__":
    tyro.cli(main, config=(FlagCreatePairsOff,))
