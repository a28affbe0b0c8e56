"""A dry run: what a job is and what it needs, without Ray and without a step of training."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from qdet.complexity import count_macs, count_parameters
from qdet.config import flatten
from qdet.data.plan.epoch import steps_per_epoch
from qdet.errors import ConfigError
from qdet.job import Job
from qdet.launching.datasets import known
from qdet.launching.paths import resolve
from qdet.masking import mask

COCO_CLASSES = 80
COCO_LONG_SIDE = 1333
GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Memory:
    """What ZeRO keeps per rank, in bytes; activations come on top."""

    weights: float
    gradients: float
    optimizer: float
    average: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.weights + self.gradients + self.optimizer + self.average


def memory_per_rank(parameters: int, trained: int, *, zero: int, ranks: int, average: bool) -> Memory:
    """Estimate what training keeps per rank. Everything is fp32: bf16 is arithmetic, not storage.

    ZeRO-1 splits AdamW's two moments, with the copy of the weights that it updates, over the ranks; ZeRO-2
    also the gradients, ZeRO-3 also the weights themselves (Rajbhandari et al., SC 2020, section 5).

    Args:
        parameters: Parameters of the detector.
        trained: Those of them that are not frozen.
        zero: ZeRO stage, 0 to 3.
        ranks: Workers.
        average: Whether averaged weights are kept.
    """
    word = 4.0
    optimizer = 2 * word * trained if zero == 0 else 3 * word * trained / ranks
    return Memory(
        weights=word * parameters / (ranks if zero == 3 else 1),
        gradients=word * trained / (ranks if zero >= 2 else 1),
        optimizer=optimizer,
        average=word * trained / (ranks if zero == 3 else 1) if average else 0.0,
    )


def describe(job: Job) -> None:
    """Print the resolved job as flags, the size of its detector, its memory per rank and its steps."""
    job = resolve(job)
    print(_aligned(_flags(job)))
    print()
    print(_aligned(_detector(job)))
    print()
    print(_aligned(_steps(job)))


def _detector(job: Job) -> dict[str, str]:
    classes, train = _classes(job), job.train
    height, width = image_size(job)
    with torch.device("meta"):  # shapes without numbers
        detector = job.detector.build(classes)
        image = torch.empty(1, 3, height, width)
        size = torch.empty(1, 2, dtype=torch.int64)
    parameters = count_parameters(detector)
    trained = count_parameters(detector, trainable=True)
    memory = memory_per_rank(
        parameters, trained, zero=train.zero, ranks=train.most_workers, average=job.optim.ema_decay > 0
    )
    parts = ("weights", "gradients", "optimizer", "average")
    shares = ", ".join(f"{name} {getattr(memory, name) / GIB:.2f}" for name in parts)
    at_a_time = train.batch_size // (train.most_workers * train.accumulation)
    giga_macs = count_macs(detector, image, size) / 1e9
    return {
        "parameters": f"{parameters:,}, {trained:,} of them trained ({classes} classes)",
        "multiply-accumulates": f"{giga_macs:.2f} G for {height} x {width} pixels",
        "memory per rank": f"{memory.total / GIB:.2f} GiB at ZeRO-{train.zero} over {train.most_workers} "
        f"workers ({shares}); activations come on top",
        "images per worker": f"{at_a_time} at a time, {train.accumulation} per step, in {train.precision}",
    }


def _steps(job: Job) -> dict[str, str]:
    found: dict[str, str] = {}
    for split, path in (("train", job.data.train), ("val", job.data.val)):
        try:
            data = known(job, split)
        except ConfigError as error:
            found[f"{split} images"] = f"unknown: {error}"
            continue
        if data.images is None or data.categories is None:
            found[f"{split} images"] = f"known once {path} is scanned"
            continue
        found[f"{split} images"] = f"{data.images:,} of {len(data.categories)} classes in {path}"
        if split == "train":
            each = steps_per_epoch(data.images, job.train.batch_size, job.data.tail)
            steps = job.train.steps or each * job.train.epochs
            found["steps"] = f"{each:,} per epoch, {steps:,} in all"
    return found


def image_size(job: Job) -> tuple[int, int]:
    """Return the height and width that a wide training image has at most, before padding."""
    short = job.data.augment.short_side_of_evaluation
    return short, min(job.data.augment.max_size, COCO_LONG_SIDE)


def _classes(job: Job) -> int:
    try:
        categories = known(job, "train").categories
    except ConfigError:
        return COCO_CLASSES
    return COCO_CLASSES if categories is None else len(categories)


def _flags(job: Job) -> dict[str, str]:
    """Return every setting under its flag, and the class of every group of settings."""
    flat = flatten(job)
    groups = {path.rpartition(".")[0] for path in flat}
    return {
        path if path in groups else "--" + path.replace("_", "-"): mask(str(value), key=path)
        for path, value in flat.items()
    }


def _aligned(rows: Mapping[str, str]) -> str:
    width = max(len(name) for name in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows.items())
