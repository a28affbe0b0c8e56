"""One training step of qdet's detectors and of transformers', with the same weights, for docs/benchmarks.md.

    OMP_NUM_THREADS=1 python -m benchmarks.detectors_vs_transformers            # prints the table
    OMP_NUM_THREADS=1 python -m benchmarks.detectors_vs_transformers --write    # and writes it to the page

A step is forward pass, set loss of all layers with its matching, and backward pass, in fp32 on one CPU
thread, without dropout, with ResNet-50 whose stem and first stage are frozen. Steps of both alternate in
one process, so that other load slows both. Seconds are CPU time; the ratio is also given in wall time.
The table also says what the multiplications of a step alone would take at the rate of one large matrix
product, which no implementation beats in fp32.
Memory is measured in a process for each, in which malloc returns freed memory at once: what it retains
varies from run to run by more than the detectors differ.
"""

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from qdet.boxes import xyxy_to_cxcywh
from qdet.convert.files import Metadata
from qdet.convert.recognize import recognize
from qdet.layers.pixels import normalize
from qdet.losses import counted_objects
from qdet.types import Targets
from qdet.zoo import load_job

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
BEGIN, END = "<!-- detectors_vs_transformers: begin -->", "<!-- detectors_vs_transformers: end -->"
DETECTORS = {  # its name in transformers, and the job with the same loss
    "DETR": ("Detr", "detr_r50"),
    "Conditional DETR": ("ConditionalDetr", "conditional_detr_r50"),
    "DAB-DETR": ("DabDetr", "dab_detr_r50"),
    "Deformable DETR": ("DeformableDetr", "deformable_detr_r50"),
}
CLASSES, OBJECTS = 80, 6
SIZES = torch.tensor([[320, 448], [288, 416]])
SIDE = 2048
"""Of the matrix whose square says what the processor can do."""

Step = Callable[[], Tensor]
"""Runs forward and backward and returns the loss."""
Clock = Literal["wall", "cpu"]
Seconds = dict[Clock, float]
"""Wall time, and CPU time of the process."""


@dataclass(frozen=True)
class Cost:
    """Time and memory of one detector's steps."""

    ours: list[Seconds]
    """Of each step, as in `theirs`."""
    theirs: list[Seconds]
    ours_mb: float
    """Peak memory that a step adds, in MB, as in `theirs_mb`."""
    theirs_mb: float
    products: float
    """CPU seconds of our step's convolutions and products at the rate of one large product of matrices."""

    def ratio(self, clock: Clock) -> float:
        """Return the median over pairs of steps of their time divided by ours."""
        pairs = zip(self.ours, self.theirs, strict=True)
        return statistics.median(theirs[clock] / ours[clock] for ours, theirs in pairs)


def main(*, repeats: int = 3, only: tuple[str, ...] = tuple(DETECTORS), write: bool = False) -> None:
    """Measure the detectors and print a table.

    Args:
        repeats: Steps of each kind, after one for warm-up.
        only: Detectors to measure.
        write: Write the table to docs/benchmarks.md.
    """
    torch.set_num_threads(1)
    costs = {}
    for name in only:
        costs[name] = measure(name, repeats)
        print(f"{name}: {costs[name]}", flush=True)
    shown = format_table(costs, repeats)
    print(shown)
    if write:
        page = PAGE.read_text()
        before, after = page.split(BEGIN)[0], page.split(END)[1]
        PAGE.write_text(f"{before}{BEGIN}\n{shown}\n{END}{after}")


def measure(name: str, repeats: int) -> Cost:
    """Time alternating steps here, then measure the memory of one step in fresh processes."""
    steps, large = make_steps(name), torch.rand(SIDE, SIDE)
    steps["product"] = lambda: large @ large
    with FlopCounterMode(display=False) as counter:
        steps["ours"]()
    seconds: dict[str, list[Seconds]] = {which: [] for which in steps}
    for _ in range(1 + repeats):
        for which, step in steps.items():
            wall, cpu = time.perf_counter(), time.process_time()
            step()
            seconds[which].append({"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu})
    product = statistics.median(s["cpu"] for s in seconds["product"][1:])
    os.environ["MALLOC_MMAP_THRESHOLD_"] = str(64 * 1024)  # read by glibc when the processes below start
    with get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        ours, theirs = (pool.apply(measure_memory, (name, which)) for which in ("ours", "theirs"))
    products = product * counter.get_total_flops() / (2 * SIDE**3)
    return Cost(seconds["ours"][1:], seconds["theirs"][1:], ours, theirs, products)


def make_steps(name: str, batch: "Batch | None" = None) -> dict[str, Step]:
    """Build both detectors with the same weights; return their steps, by default on two images."""
    import transformers

    model, job = DETECTORS[name]
    stages = ("stage2", "stage3", "stage4") if name == "Deformable DETR" else ("stage4",)
    config = getattr(transformers, f"{model}Config")(
        backbone_config=transformers.AutoConfig.for_model("resnet", out_features=list(stages)),
        num_labels=CLASSES,
        dropout=0.0,
        auxiliary_loss=True,
    )
    torch.manual_seed(0)
    theirs = getattr(transformers, f"{model}ForObjectDetection")(config).train()
    for part, parameter in theirs.model.backbone.named_parameters():
        parameter.requires_grad_(any(f"encoder.stages.{stage}." in part for stage in (1, 2, 3)))
    found = recognize(theirs.state_dict(), Metadata(heads=8))
    ours = replace(found.detector, dropout=0.0).build(CLASSES).train()
    ours.load_state_dict(found.weights)
    batch = make_batch(SIZES) if batch is None else batch
    device = batch.images.device
    return {
        "ours": make_our_step(ours.to(device), load_job(job).loss, batch),
        "theirs": make_their_step(theirs.to(device), batch),
    }


def make_our_step(detector: Any, loss: Any, batch: "Batch") -> Step:
    """Return the training step of one of our detectors."""
    criterion = loss.build(CLASSES).to(batch.images.device)
    objects = counted_objects(batch.targets, detector.config.queries, loss.per)

    def step() -> Tensor:
        detector.zero_grad()
        stages = detector(batch.images, batch.sizes_hw)
        total = criterion(stages, batch.targets, batch.sizes_hw, normalizer=objects).total
        total.backward()
        return total.detach()

    return step


def make_their_step(model: Any, batch: "Batch") -> Step:
    """Return the training step of one of theirs, with its own loss."""
    extents = batch.sizes_hw.flip(-1).repeat(1, 2)
    labels = [
        {"class_labels": classes, "boxes": xyxy_to_cxcywh(boxes) / extent}
        for (boxes, classes), extent in zip(batch.targets.per_image(), extents, strict=True)
    ]

    def step() -> Tensor:
        model.zero_grad()
        images = normalize(batch.images, batch.sizes_hw)
        total = model(pixel_values=images, pixel_mask=batch.inside, labels=labels).loss
        total.backward()
        return total.detach()

    return step


@dataclass(frozen=True)
class Batch:
    """What both kinds of detector take."""

    images: Tensor
    """[B 3 H W] bytes."""
    inside: Tensor
    """[B H W]: 0 on padding."""
    sizes_hw: Tensor
    targets: Targets

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on a device."""
        images, inside, sizes = (t.to(device) for t in (self.images, self.inside, self.sizes_hw))
        return Batch(images, inside, sizes, self.targets.to(device))


def make_batch(sizes_hw: Tensor) -> Batch:
    """Return noise images of these sizes [B 2] with random objects."""
    height, width = sizes_hw.amax(0).tolist()
    count = len(sizes_hw)
    images = torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8)
    rows, columns = torch.arange(height) < sizes_hw[:, :1], torch.arange(width) < sizes_hw[:, 1:]
    corners = torch.rand(count * OBJECTS, 2) * 0.6 * min(height, width)
    boxes = torch.cat(
        (corners, corners + (0.06 + 0.19 * torch.rand(len(corners), 2)) * min(height, width)), dim=1
    )
    targets = Targets(boxes, torch.randint(0, CLASSES, (len(boxes),)), (OBJECTS,) * count)
    return Batch(images, (rows.unsqueeze(2) & columns.unsqueeze(1)).long(), sizes_hw, targets)


def measure_memory(name: str, which: str) -> float:
    """Return the peak memory of a second step minus that before the first, in MB (Linux only)."""
    torch.set_num_threads(1)
    step = make_steps(name)[which]
    before = _read_status("VmRSS")
    step()
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak
    step()
    return (_read_status("VmHWM") - before) / 1024


def _read_status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":"))


def format_table(costs: dict[str, Cost], repeats: int) -> str:
    """Return the table of docs/benchmarks.md."""
    rows = [
        "| detector | qdet, s | products alone, s | transformers, s | ratio | ratio, wall time | qdet, MB "
        "| transformers, MB |",
        "| --- | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for name, cost in costs.items():
        ours, theirs = (statistics.median(s["cpu"] for s in steps) for steps in (cost.ours, cost.theirs))
        rows.append(
            f"| {name} | {ours:.2f} | {cost.products:.2f} | {theirs:.2f} | {cost.ratio('cpu'):.2f} "
            f"| {cost.ratio('wall'):.2f} | {cost.ours_mb:.0f} | {cost.theirs_mb:.0f} |"
        )
    import transformers

    rows.append("")
    rows.append(
        f"Medians of {repeats} steps on one thread of {os.cpu_count()} cores, torch {torch.__version__}, "
        f"transformers {transformers.__version__}."
    )
    return "\n".join(rows)


if __name__ == "__main__":
    tyro.cli(main)
