"""Small programs that run on several ranks over gloo, with a fault in them, and write down what they see."""

import os
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from qdet.data.loading.planned_stream import TrainStream
from qdet.job import OptimConfig, TrainConfig
from qdet.training.distributed import join
from qdet.training.engine.build import build_engine
from qdet.training.health.unused_parameters import UnusedParameters
from tests.support.ranks import _train


def train_on_corrupt_batches(corrupt, jobs, store):
    """Train, with batches that `corrupt` ({step: (rank, what)}) names in the place of sound ones.

    Steps count from 1. `boxes` are objects without a place, `sizes` images without an extent.
    """
    sound = TrainStream.steps

    def steps(stream, first, last):
        for step, batches in enumerate(sound(stream, first, last), start=first + 1):
            rank, what = corrupt.get(step, (None, None))
            yield [_corrupt(batch, what) if rank == stream.rank else batch for batch in batches]

    TrainStream.steps = steps
    try:
        _train(jobs, store)
    finally:
        TrainStream.steps = sound


def train_until_the_data_stops(step, jobs, store):
    """Train, on rank 1 without any data after `step` steps."""
    sound = TrainStream.steps

    def steps(stream, first, last):
        for number, batches in enumerate(sound(stream, first, last), start=first + 1):
            if stream.rank == 1 and number > step:
                time.sleep(1000)
            yield batches

    TrainStream.steps = steps
    _train(jobs, store)


def _corrupt(batch, what):
    if what == "boxes":
        nowhere = torch.full_like(batch.targets.boxes_xyxy, torch.nan)
        return replace(batch, targets=replace(batch.targets, boxes_xyxy=nowhere))
    return replace(batch, sizes_hw=torch.zeros_like(batch.sizes_hw))


class TwoHeads(nn.Module):
    """A model that can leave some of its parameters out."""

    def __init__(self):
        super().__init__()
        self.body, self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 1), nn.Linear(4, 1)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)

    def forward(self, x, use_second):
        x = self.frozen(self.body(x))
        return self.first(x).sum() + (self.second(x).sum() if use_second else 0)


def leave_a_head_out(zero, folder: Path):
    """Two steps with every parameter, then one in which rank 1 leaves the second head out."""
    module = TwoHeads()
    world, engine = _engine_of(module, zero=zero)
    unused = UnusedParameters(module, rank=world.rank, required=zero == 3)
    os.dup2(os.open(folder / f"rank{world.rank}.txt", os.O_WRONLY | os.O_CREAT), 1)
    for use_second in (True, True, world.rank == 0):
        engine.backward(unused.watch(engine(torch.ones(1, 4), use_second)))
        unused.check()
        engine.step(1.0)
        print("a step", flush=True)


def wait_for_one_that_sleeps(zero, timeout, folder: Path):
    """Two steps, then rank 1 falls asleep for long; rank 0 writes what becomes of it."""
    from torch.distributed import distributed_c10d

    world, engine = _engine_of(TwoHeads(), zero=zero, timeout=timeout)
    backends = [group._get_backend(world.device) for group in distributed_c10d._world.pg_map]
    groups = [str(backend.options._timeout) for backend in backends]
    (folder / f"groups{world.rank}.txt").write_text("\n".join(groups))
    for _ in range(2):
        _step(engine)
    if world.rank == 1:
        while not (folder / "rank0.txt").exists():
            time.sleep(0.2)
        os._exit(0)
    try:
        _step(engine)
        said = "no error"
    except RuntimeError as error:
        said = str(error)
    (folder / "rank0.txt").write_text(said)
    os._exit(0)


def _step(engine):
    engine.backward(engine(torch.ones(1, 4), True))
    engine.step(1.0)


def _engine_of(module, *, zero, timeout=20):
    world = join("cpu", timeout=timeout)
    train = replace(TrainConfig(), zero=zero, batch_size=2, workers=2, precision="fp32", timeout=timeout)
    return world, build_engine(module, train, OptimConfig(), world)
