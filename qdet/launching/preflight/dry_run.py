"""A dry run: what a job is and what it needs, without Ray and without a step of training."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch

from qdet.config import flatten
from qdet.data.plan.epoch import steps_per_epoch
from qdet.data.shards.locate import DatasetInfo
from qdet.detectors.complexity import count_macs, count_parameters, count_saved_bytes
from qdet.errors import ConfigError
from qdet.job import Job, TrainConfig
from qdet.launching.preflight.plan import Machines, plan
from qdet.launching.preflight.start import check_start
from qdet.launching.runs.prepared import Prepared, Split
from qdet.masking import mask
from qdet.training.engine.stage import GIB, Memory, memory_per_rank
from qdet.training.freeze import freeze

COCO_CLASSES = 80
COCO_LONG_SIDE = 1333


def describe(prepared: Prepared, base: Job | None = None, machines: Machines | None = None) -> dict[str, Any]:
    """Print what the command line changed, the size of a job, its memory, steps and plan, and all settings.

    A dataset that cannot be used is no error here: what follows from it is unknown.

    Args:
        prepared: The job, its datasets and which run it is.
        base: The job before the command line changed it; settings that differ say what they were.
        machines: Where it is to train.

    Returns:
        The same for programs, numbers unrounded; None of what is unknown.
    """
    job = prepared.job
    train, val = _look(prepared, "train"), _look(prepared, "val")
    size = measure(job, _classes(train))
    steps = _count_steps(job, train)
    planned = plan(
        job,
        machines or Machines(),
        parameters=size.parameters,
        trained=size.trained,
        steps=steps[1] if steps else job.train.steps,
    )
    flags = _flags(job, base or job)
    changed = {name: value for name, value in flags.items() if "  (was " in value}
    print(_aligned(changed or {"changed": "nothing: the job as its file has it"}))
    print()
    print(_aligned(size.rows(job) | planned.rows()))
    print()
    print(
        _aligned(_images("train", job.data.train, train) | _steps(steps) | _images("val", job.data.val, val))
    )
    if job.store.init_from:
        print("", *check_start(job, getattr(train, "categories", None)), sep="\n")
    print()
    print(_aligned(flags))
    return size.as_json() | {
        "plan": planned.as_json(),
        "steps_per_epoch": steps[0] if steps else None,
        "steps": steps[1] if steps else None,
        "train_images": None if isinstance(train, ConfigError) else train.images,
        "val_images": None if isinstance(val, ConfigError) else val.images,
        "settings": {path: _masked(path, value) for path, value in flatten(job).items()},
    }


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large a detector is, and what a step of its training takes."""

    parameters: int
    trained: int
    classes: int
    macs: int
    """Multiply-accumulates of one image."""
    image: tuple[int, int]
    """Its height and width in pixels."""
    memory: Memory
    activations: int
    """Bytes that a forward pass over a worker's images of that size keeps for its backward pass."""

    def rows(self, job: Job) -> dict[str, str]:
        """Return it for people."""
        train, (height, width) = job.train, self.image
        at_a_time, count = _images_at_a_time(job), train.passes(train.most_workers)
        shares = ", ".join(f"{f.name} {getattr(self.memory, f.name) / GIB:.2f}" for f in fields(self.memory))
        passes = "1 pass" if count == 1 else f"{count} passes"
        precision = "bf16, or fp32 where that is emulated" if train.precision == "auto" else train.precision
        return {
            "parameters": f"{self.parameters:,}, {self.trained:,} of them trained ({self.classes} classes)",
            "multiply-accumulates": f"{self.macs / 1e9:.2f} G for {height} x {width} pixels",
            "memory per rank": f"{self.memory.total / GIB:.2f} GiB at {_describe_stage(train)} over "
            f"{train.most_workers} workers ({shares})",
            "activations": f"{self.activations / GIB:.2f} GiB for {at_a_time} of them at a time, by a CPU's "
            "operations; a GPU may keep less",
            "images per worker": f"{at_a_time} in a pass, {passes} in a step, in {precision}",
        }

    def as_json(self) -> dict[str, Any]:
        """Return it for programs; memory in bytes."""
        return {
            "parameters": self.parameters,
            "trained_parameters": self.trained,
            "classes": self.classes,
            "macs": self.macs,
            "image": list(self.image),
            "activations": self.activations,
            "memory_per_rank": asdict(self.memory) | {"total": self.memory.total},
        }


def _describe_stage(train: TrainConfig) -> str:
    return "ZeRO-0 (auto: more where memory is short)" if train.zero == "auto" else f"ZeRO-{train.zero}"


def _look(prepared: Prepared, split: Split) -> DatasetInfo | ConfigError:
    try:
        return prepared.train if split == "train" else prepared.val
    except ConfigError as error:
        return error


def measure(job: Job, classes: int) -> Size:
    """Count parameters and arithmetic of a job's detector, and estimate its memory."""
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
        parameters,
        trained,
        zero=0 if train.zero == "auto" else train.zero,
        ranks=train.most_workers,
        average=job.optim.ema_decay > 0,
        passes=train.passes(train.most_workers),
    )
    return Size(
        parameters=parameters,
        trained=trained,
        classes=classes,
        macs=count_macs(detector, image, size),
        image=(height, width),
        memory=memory,
        activations=_count_activations(job, detector, (height, width)),
    )


def _count_activations(job: Job, detector: torch.nn.Module, hw: tuple[int, int]) -> int:
    height, width = hw
    at_a_time = _images_at_a_time(job)
    images = torch.empty(at_a_time, 3, height, width, device="meta")
    sizes = torch.empty(at_a_time, 2, dtype=torch.int64, device="meta")
    return count_saved_bytes(detector, images, sizes, bf16=job.train.precision == "bf16")


def _images_at_a_time(job: Job) -> int:
    train = job.train
    return train.canonical or train.batch_size // (train.most_workers * train.accumulation)


def _count_steps(job: Job, train: DatasetInfo | ConfigError) -> tuple[int, int] | None:
    """Return the steps of an epoch and of the whole training; None where the images are not known."""
    images = None if isinstance(train, ConfigError) else job.data.count_trained(train)
    if images is None:
        return None
    each = steps_per_epoch(images, job.train.batch_size, job.data.tail)
    return each, job.train.steps or each * job.train.epochs


def _steps(steps: tuple[int, int] | None) -> dict[str, str]:
    return {} if steps is None else {"steps": f"{steps[0]:,} per epoch, {steps[1]:,} in all"}


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


def _flags(job: Job, base: Job) -> dict[str, str]:
    """Return every setting under its flag, and the class of every group of settings."""
    flat, before = flatten(job), flatten(base)
    groups = {path.rpartition(".")[0] for path in flat}
    rows = {}
    for path, value in flat.items():
        was = f"  (was {mask(str(before[path]), key=path)})" if before.get(path, value) != value else ""
        name = path if path in groups else "--" + path.replace("_", "-")
        rows[name] = mask(str(value), key=path) + was
    return rows


def _masked(path: str, value: Any) -> Any:
    """Return a setting as JSON holds it, without secrets."""
    if isinstance(value, tuple):
        return [_masked(path, one) for one in value]
    return value if isinstance(value, bool | int | float | None) else mask(str(value), key=path)


def _aligned(rows: Mapping[str, str]) -> str:
    width = max(len(name) for name in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows.items())
