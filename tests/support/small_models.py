"""Runs with checkpoints of a small random detector, as training leaves them."""

from pathlib import Path

import torch

from qdet.checkpoint import Piece, TrainState, open_folder
from qdet.checkpoint.writing import Contents, commit, write_share
from qdet.config import flatten
from qdet.detectors.detector import Detector
from qdet.job import Job
from tests.support.tiny_job import job as TINY

NAMES, IDS = ("circle", "square", "star"), (3, 7, 11)


def build(job: Job = TINY, *, seed: int = 0) -> Detector:
    """A detector whose boxes and scores differ from query to query and image to image."""
    torch.manual_seed(seed)
    detector = job.detector.build(len(NAMES))
    with torch.no_grad():
        for name, parameter in detector.named_parameters():
            if not name.startswith("backbone"):
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return detector.eval()


def write_checkpoint(
    folder: Path, *, step: int, job: Job = TINY, seed: int = 0, averaged: bool = False, metrics=None
) -> Detector:
    """Write a checkpoint of one rank; the detector that `load` must give back is returned."""
    detector, other = build(job, seed=seed), build(job, seed=seed + 100)
    trained = {name for name, _ in detector.named_parameters()}
    weights = {f"weights/{n}": t for n, t in (other if averaged else detector).state_dict().items()}
    if averaged:
        weights |= {f"average/{n}": t for n, t in detector.state_dict().items() if n in trained}
        detector.load_state_dict(
            other.state_dict() | {n: t for n, t in detector.state_dict().items() if n in trained}
        )
    where = open_folder(folder / f"step_{step:06d}")
    attempt = f"{step:04x}"
    pieces = [Piece(name, 0, tensor.detach().flatten()) for name, tensor in weights.items()]
    write_share(where, rank=0, attempt=attempt, pieces=pieces)
    state = TrainState(
        step=step, updates=step, ema_updates=step, seed=0, batch_size=8, data_digest="",
        categories={"names": list(NAMES), "ids": list(IDS)},
    )  # fmt: skip
    shapes = {name: list(tensor.shape) for name, tensor in weights.items()}
    commit(
        where,
        Contents(
            attempt=attempt, world_size=1, state=state, job=flatten(job), shapes=shapes, metrics=metrics or {}
        ),
        patience=5.0,
    )
    return detector
