"""Loss curves of the same steps in fp32, in bf16, and in bf16 with kernels."""

from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch

from benchmarks.gpu.bench import Bench, Lines
from benchmarks.gpu.scale import Scale, Shape
from benchmarks.gpu.scenes import CLASSES, Scene, TrainingStep, build_detector
from benchmarks.gpu.steps import with_kernels
from qdet.kernels.choice import Choice
from qdet.types import Targets

Precision = Literal["bf16", "fp32"]
BATCH, QUERIES, SMOOTHED = 4, 100, 20
"""Images and most queries of a step; steps whose losses are averaged where curves are compared."""


def measure_curves(bench: Bench) -> Lines:
    """Losses of every step, and the largest difference of their moving averages from those of fp32."""
    curves: dict[str, list[float]] = {}
    variants: dict[str, tuple[Precision, Choice]] = {
        "fp32": ("fp32", "torch"),
        "bf16": ("bf16", "torch"),
        "bf16, kernels": ("bf16", "auto"),
    }
    for name, (precision, choice) in variants.items():
        if bench.wrong and choice != "torch":
            continue
        curves[name] = learn(bench, precision, choice)
        yield {
            "name": name,
            "steps": len(curves[name]),
            "first": curves[name][0],
            "last": curves[name][-1],
            "largest_difference": difference(curves[name], curves["fp32"]),
            "losses": curves[name],
        }


def learn(bench: Bench, precision: Precision, choice: Choice) -> list[float]:
    """Train on the same batches from the same weights; return the losses."""
    scale = bench.scale
    queries = min(QUERIES, first_step(scale)[3])
    step = TrainingStep(build_detector(scale, queries), scale, precision=precision)
    losses = []
    for scene in scenes_of(bench):
        run = with_kernels(choice, lambda scene=scene: step(scene, queries=queries, lr_factor=1.0))
        losses.append(run())
    return [float(loss) for loss in losses]  # type: ignore[arg-type]


def difference(a: list[float], b: list[float]) -> float:
    """Return the largest relative difference of two curves' moving averages."""
    width = min(SMOOTHED, len(a))
    kernel = np.full(width, 1 / width)
    x, y = (np.convolve(curve, kernel, mode="valid") for curve in (a, b))
    return float(np.max(np.abs(x - y) / np.abs(y)))


def scenes_of(bench: Bench) -> Iterator[Scene]:
    """Yield the batches of the curves: of decoded images, or drawn rectangles."""
    scale = bench.scale
    if bench.images is None:
        for number in range(scale.learned):
            yield draw_scene(scale, seed=bench.seed + number % 32)
        return
    with np.load(bench.images) as held:  # allow_pickle is off
        images, sizes, boxes, labels, ends = (held[k] for k in ("images", "sizes", "boxes", "labels", "ends"))
    order = np.random.default_rng(bench.seed)
    for _ in range(scale.learned):
        yield pick_scene(order.choice(len(images), BATCH), images, sizes, boxes, labels, ends, scale)


def pick_scene(
    chosen: np.ndarray, images: np.ndarray, sizes: np.ndarray, boxes: np.ndarray, labels: np.ndarray,
    ends: np.ndarray, scale: Scale,
) -> Scene:  # fmt: skip
    """Return a batch of decoded images; objects of image i end at `ends[i]`."""
    last = [0, *ends.tolist()]
    rows = [np.arange(last[i], last[i + 1]) for i in chosen.tolist()]
    every = np.concatenate(rows)
    targets = Targets(
        torch.from_numpy(boxes[every]).float().to(scale.device),
        torch.from_numpy(labels[every]).long().to(scale.device),
        tuple(map(len, rows)),
    )
    batch = torch.from_numpy(images[chosen]).to(scale.device).permute(0, 3, 1, 2)
    return Scene(batch, torch.from_numpy(sizes[chosen]).long().to(scale.device), targets)


def draw_scene(scale: Scale, *, seed: int) -> Scene:
    """Return a batch of dim noise with bright rectangles, whose colour is their class."""
    height, width = side(scale)
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 60, (BATCH, height, width, 3), generator=generator, dtype=torch.uint8)
    boxes, labels = [], []
    for image in images:
        for _ in range(3):
            w, h = (int(torch.randint(8, end // 2, (), generator=generator)) for end in (width, height))
            x = int(torch.randint(0, width - w, (), generator=generator))
            y = int(torch.randint(0, height - h, (), generator=generator))
            label = int(torch.randint(0, CLASSES, (), generator=generator))
            image[y : y + h, x : x + w] = torch.tensor([80 + 2 * label, 255 - 3 * label, 40 * (label % 5)])
            boxes.append([x, y, x + w, y + h])
            labels.append(label)
    targets = Targets(torch.tensor(boxes).float(), torch.tensor(labels), (3,) * BATCH).to(scale.device)
    sizes = torch.tensor([[height, width]] * BATCH, device=scale.device)
    return Scene(images.to(scale.device).permute(0, 3, 1, 2), sizes, targets)


def side(scale: Scale) -> tuple[int, int]:
    """Return height and width of drawn images."""
    _, height, width, _ = first_step(scale)
    return min(height, 480), min(width, 640)


def first_step(scale: Scale) -> Shape:
    """Return the shape of the first step that is timed."""
    return next(iter(scale.steps.values()))
