"""Checkpoints of tiny models that were not trained, as a run's folder would hold them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from qdet.checkpoint import TrainState, open_folder, write_whole
from qdet.config import flatten
from qdet.job import Job
from tests.support.tiny_job import job


def write_untrained(folder: Path, names: Sequence[str], *, seed: int = 0, step: int = 7) -> Path:
    """Write the tiny job's checkpoint with random weights for classes of these names; return its folder."""
    torch.manual_seed(seed)
    return write_weights(folder, names, job, job.detector.build(len(names)).state_dict(), step=step)


def write_weights(
    folder: Path, names: Sequence[str], job: Job, weights: Mapping[str, Tensor], *, step: int = 7
) -> Path:
    """Write a checkpoint of these weights of a job's detector; return its folder."""
    state = TrainState(
        step=step, updates=step, ema_updates=0, seed=0, batch_size=8, data_digest="",
        categories={"names": list(names), "ids": list(range(1, len(names) + 1))},
    )  # fmt: skip
    tensors = {f"weights/{name}": tensor for name, tensor in weights.items()}
    write_whole(open_folder(folder), tensors, state=state, job=flatten(job))
    return folder
