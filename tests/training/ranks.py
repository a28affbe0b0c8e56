"""Runs `train(job)` in processes that talk over gloo, job after job, and brings back what rank 0 logged."""

import json
import os
import socket
from pathlib import Path

import torch
import torch.multiprocessing as mp

from qdet.checkpoint import Folder, RunFolder, Saved
from qdet.job import Job

Points = dict[int, dict[str, float]]
"""Metrics by step."""


class Recorder:
    """A tracker that writes down every metric."""

    def __init__(self):
        self.points = []

    def metrics(self, values, step):
        self.points.append([step, dict(values)])

    def __getattr__(self, name):
        return lambda *args, **kwargs: None


def train_all(ranks: int, jobs: dict[str, Job], store: Path) -> dict[str, Points]:
    """Train `jobs` one after the other on `ranks` processes; return the metrics of each by step.

    The name of a job is the name of its run, so a run that the store already has goes on.
    """
    store.mkdir(parents=True, exist_ok=True)
    if ranks == 1:
        _train(jobs, store)
    else:
        mp.spawn(_rank, args=(ranks, _free_port(), jobs, store), nprocs=ranks)
    return {name: _read(store / f"{name}.json") for name in jobs}


def checkpoint(store: Path, run: str, step: int) -> Saved:
    """Open a checkpoint that `train_all` wrote."""
    return Saved(RunFolder(Folder.open(store / run)).at(step))


def assert_same(one: Saved, other: Saved) -> None:
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


def _rank(rank, ranks, port, jobs, store):
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
    }
    _train(jobs, store)


def _train(jobs, store):
    from qdet.training.loop import train
    from qdet.training.reporting import LocalReporter, Run

    for name, job in jobs.items():
        recorder = Recorder()
        train(job, run=Run(name=name, store=str(store)), reporter=LocalReporter(), tracker=recorder)
        if os.environ.get("RANK", "0") == "0":
            (store / f"{name}.json").write_text(json.dumps(recorder.points))


def _free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]
