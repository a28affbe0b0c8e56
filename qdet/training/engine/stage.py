"""Which ZeRO stage a job needs: the memory of its state, and `--train.zero auto`."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import psutil
import torch

from qdet.config import override
from qdet.detectors.complexity import count_parameters
from qdet.job import Job
from qdet.training.distributed import World
from qdet.training.freeze import freeze

STATE_SHARE = 1 / 3
"""Share of a device's memory that weights, gradients, moments and averages may take."""
GIB = 2**30
Stage = Literal[0, 1, 2, 3]
STAGES: tuple[Stage, ...] = (0, 1, 2, 3)


@dataclass(frozen=True, kw_only=True)
class Memory:
    """What training keeps per rank, in bytes; activations come on top."""

    weights: float
    gradients: float
    optimizer: float
    average: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.weights + self.gradients + self.optimizer + self.average


def memory_per_rank(
    parameters: int, trained: int, *, zero: int, ranks: int, average: bool, passes: int = 1
) -> Memory:
    """Estimate what training keeps per rank. Everything is fp32: bf16 is arithmetic, not storage.

    ZeRO-1 splits AdamW's two moments, with the copy of the weights that it updates, over the ranks; ZeRO-2
    also the gradients, ZeRO-3 also the weights themselves (Rajbhandari et al., SC 2020, section 5). DeepSpeed
    splits the gradients at ZeRO-1 too, unless several passes add to them. One rank has nothing to split.
    Buckets on their way to other ranks are not counted; at ZeRO-0 they are as large as the gradients at most.

    Args:
        parameters: Parameters of the detector.
        trained: Those of them that are not frozen.
        zero: ZeRO stage, 0 to 3.
        ranks: Workers.
        average: Whether averaged weights are kept.
        passes: Forward and backward passes in a step.
    """
    zero, word = zero if ranks > 1 else 0, 4.0
    whole_gradients = zero == 0 or (zero == 1 and passes > 1)
    optimizer = 2 * word * trained if zero == 0 else 3 * word * trained / ranks
    return Memory(
        weights=word * parameters / (ranks if zero == 3 else 1),
        gradients=word * trained / (1 if whole_gradients else ranks),
        optimizer=optimizer,
        average=word * trained / (ranks if zero == 3 else 1) if average else 0.0,
    )


def choose_stage(memory: Callable[[Stage], float], *, available: float) -> Stage:
    """Return the lowest stage whose `memory` takes at most a third of the bytes `available`, or else 3."""
    for stage in STAGES:
        if memory(stage) <= STATE_SHARE * available:
            return stage
    return 3


def settle_stage(job: Job, world: World, *, classes: int) -> Job:
    """Return `job` with a number for `--train.zero auto`, the same on all ranks, and print it. Collective."""
    if job.train.zero != "auto":
        return job
    if job.train.canonical:
        return override(job, {"train.zero": 0})
    parameters, trained = _count(job, classes)
    ranks, average, passes = world.size, job.optim.ema_decay > 0, job.train.passes(world.size)

    def memory(stage: Stage) -> float:
        found = memory_per_rank(parameters, trained, zero=stage, ranks=ranks, average=average, passes=passes)
        return found.total

    least = world.broadcast(min(world.gather(device_memory(world)), default=0.0))
    stage = 0 if ranks == 1 else choose_stage(memory, available=least)
    if world.main:
        print(
            f"--train.zero auto: stage {stage}; weights, gradients, moments and averages take "
            f"{memory(stage) / GIB:.2f} GiB of {least / GIB:.1f} GiB on each of {ranks} ranks",
            flush=True,
        )
    return override(job, {"train.zero": stage})


def device_memory(world: World) -> float:
    """Return the bytes of this rank's device; on a CPU its share of the machine's."""
    if world.device.type == "cuda":
        return float(torch.cuda.get_device_properties(world.device).total_memory)
    return psutil.virtual_memory().total / int(os.environ.get("LOCAL_WORLD_SIZE", world.size))


def _count(job: Job, classes: int) -> tuple[int, int]:
    """Return the parameters of a job's detector, and those that are trained."""
    with torch.device("meta"):  # shapes without numbers
        detector = job.detector.build(classes)
        freeze(detector, job.train.freeze)
    return count_parameters(detector), count_parameters(detector, trainable=True)
