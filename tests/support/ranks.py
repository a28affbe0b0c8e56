"""Runs `train(job)` in processes that talk over gloo, job after job, and brings back what rank 0 logged."""

import json
import os
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
import torch.multiprocessing as mp

from qdet.backbones import SwinConfig
from qdet.checkpoint import Checkpoint, RunFolder, open_folder
from qdet.config import override
from qdet.detectors import AdaMixerConfig
from qdet.job import Job
from qdet.tracking import NullTracker
from qdet.training import loop
from qdet.training.distributed import join
from qdet.training.reporting import LocalReporter, Run

Points = dict[int, dict[str, float]]
"""Metrics by step."""
STEPS = 20


def tiny_job(shards, **changes):
    """A job that makes a step in a blink: 2 stages, 10 queries, 64-pixel images, fp32."""
    job = Job(name="tiny").demo()
    detector = replace(
        AdaMixerConfig().demo(), queries=10, stages=2, width=32, feature_width=32, groups=2, heads=2,
        backbone=replace(SwinConfig().demo(), drop_path=0.0, weights=None),
    )  # fmt: skip
    return override(
        job,
        {
            "detector": detector,
            "data.train": str(shards / "train"),
            "data.val": str(shards / "val"),
            "data.augment.sizes": (48, 64),
            "data.augment.max_size": 64,
            "optim.warmup_steps": 5,
            "train.steps": STEPS,
            "train.batch_size": 8,
            "train.workers": 1,
            "train.precision": "fp32",
            "train.log_every": 1,
            "train.checkpoint_every": 1000,
            "train.eval_every": 0,  # at the end alone
            "eval.pictures": 0,
            "eval.sanity": False,
            # The recipe's rate. At the demo's 1e-3 rounding grows: plain PyTorch that splits its batch
            # drifts from plain PyTorch that does not by 1.2e-3 of the loss in 20 steps (in float64, 7e-15).
            "optim.lr": 2.5e-5,
            "optim.schedule": "step",
            "optim.drop_epochs": (3,),
            "optim.lr_multipliers": (("backbone", 0.5),),
            "optim.no_decay": ("norm", "bias$"),
        }
        | changes,
    )


class Recorder(NullTracker):
    """A tracker that writes down every metric."""

    def __init__(self):
        self.points = []

    def metrics(self, values, step):
        self.points.append([step, dict(values)])


def train_all(ranks: int, jobs: dict[str, Job], store: Path) -> dict[str, Points]:
    """Train `jobs` one after the other on `ranks` processes; return the metrics of each by step.

    The name of a job is the name of its run, so a run that the store already has is resumed.
    """
    store.mkdir(parents=True, exist_ok=True)
    on_ranks(ranks, _train, jobs, store)
    return {name: _read(store / f"{name}.json") for name in jobs}


def on_ranks(ranks: int, task: Callable[..., None], *args: object, apart: bool = False) -> None:
    """Call `task(*args)` in as many processes that find each other; in this one where one will do.

    `apart` keeps what DeepSpeed does to torch out of this process.
    """
    if ranks == 1 and not apart:
        task(*args)
    else:
        mp.spawn(_rank, args=(ranks, _free_port(), task, args), nprocs=ranks)


def save_again(jobs: dict[str, Job], store: Path, into: Path) -> None:
    """Open the run of each job as training does, and save it at once, elsewhere (on every rank)."""
    for name, job in jobs.items():
        world = join("cpu", timeout=60)
        run = Run(name=name, store=str(store))
        training = loop._Training(job, world, run, LocalReporter(), Recorder(), None)
        training.checkpoints.writer.run = RunFolder(open_folder(into / name))
        training._save()
        training.checkpoints.writer.wait(at_end=True)


def checkpoint(store: Path, run: str, step: int) -> Checkpoint:
    """Open a checkpoint that `train_all` wrote."""
    return Checkpoint(RunFolder(open_folder(store / run)).at(step))


def assert_same(one: Checkpoint, other: Checkpoint) -> None:
    """Two checkpoints hold the same tensors, bit for bit."""
    assert one.shapes == other.shapes
    for name in one.shapes:
        assert torch.equal(one.whole(name), other.whole(name)), name


def losses(points: Points) -> list[float]:
    return [points[step]["train/loss"] for step in sorted(points)]


def _read(log: Path) -> Points:
    found: Points = {}
    for step, values in json.loads(log.read_text()):
        found.setdefault(step, {}).update(values)
    return found


def _rank(rank, ranks, port, task, args):
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "QDET_JOIN_SECRET": "of these ranks",
    }
    task(*args)


def _train(jobs, store):
    for name, job in jobs.items():
        recorder = Recorder()
        loop.train(job, run=Run(name=name, store=str(store)), reporter=LocalReporter(), tracker=recorder)
        if os.environ.get("RANK", "0") == "0":
            (store / f"{name}.json").write_text(json.dumps(recorder.points))


def _free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]
