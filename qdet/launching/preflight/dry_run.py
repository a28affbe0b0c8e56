"""A dry run: what a job is and what it needs, without Ray and without a step of training."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from qdet.complexity import count_macs, count_parameters
from qdet.config import flatten
from qdet.data.plan.epoch import steps_per_epoch
from qdet.data.shards.locate import DatasetInfo
from qdet.errors import ConfigError
from qdet.job import Job
from qdet.launching.preflight.start import check_start
from qdet.launching.runs.prepared import Prepared, Split
from qdet.masking import mask
from qdet.training.freeze import freeze

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


def describe(prepared: Prepared) -> None:
    """Print the resolved job as flags, the size of its detector, its memory per rank and its steps.

    A dataset that cannot be used is no error here: what follows from it is unknown.
    """
    job = prepared.job
    print(_aligned(_flags(job)))
    print()
    train, val = _look(prepared, "train"), _look(prepared, "val")
    print(_aligned(_detector(job, _classes(train))))
    print()
    print(_aligned(_steps(job, train) | _images("val", job.data.val, val)))
    if job.store.init_from:
        print("", *check_start(job, getattr(train, "categories", None)), sep="\n")


def _look(prepared: Prepared, split: Split) -> DatasetInfo | ConfigError:
    try:
        return prepared.train if split == "train" else prepared.val
    except ConfigError as error:
        return error


def _detector(job: Job, classes: int) -> dict[str, str]:
    train = job.train
    height, width = image_size(job)
    with torch.device("meta"):  # shapes without numbers
        detector = job.detector.build(classes)
        freeze(detector, train.freeze)
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


def _steps(job: Job, train: DatasetInfo | ConfigError) -> dict[str, str]:
    found = _images("train", job.data.train, train)
    if isinstance(train, ConfigError) or train.images is None:
        return found
    each = steps_per_epoch(train.images, job.train.batch_size, job.data.tail)
    steps = job.train.steps or each * job.train.epochs
    return found | {"steps": f"{each:,} per epoch, {steps:,} in all"}


def _images(split: Split, address: str, info: DatasetInfo | ConfigError) -> dict[str, str]:
    if isinstance(info, ConfigError):
        said = f"unknown: {info}"
    elif info.images is None or info.categories is None:
        said = f"known once {address} is scanned"
    else:
        said = f"{info.images:,} of {len(info.categories)} classes in {address}"
    return {f"{split} images": said}


def image_size(job: Job) -> tuple[int, int]:
    """Return the height and width that a wide training image has at most, before padding."""
    short = job.data.augment.short_side_of_evaluation
    return short, min(job.data.augment.max_size, COCO_LONG_SIDE)


def _classes(train: DatasetInfo | ConfigError) -> int:
    if isinstance(train, ConfigError) or train.categories is None:
        return COCO_CLASSES
    return len(train.categories)


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
