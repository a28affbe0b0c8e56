"""Replay a run by one process, from each of its checkpoints to the next.

From equal weights the same step has the same loss and gradients for any number of workers. Whole runs cannot
be compared so: AdamW's first updates are as large as the learning rate however small the gradient, so that
rounding, which depends on the number of workers, grows to 3e-6 of the loss in 60 steps.
"""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import torch

from qdet.config import override
from qdet.job import Job
from qdet.training import loop
from qdet.training.reporting import LocalReporter, Progress, Run
from tests.support.ranks import Recorder, checkpoint, on_ranks

KINDS = ("weights", "average", "exp_avg", "exp_avg_sq")
"""What a checkpoint holds for every parameter; the moments are sums of gradients."""


class StopAfter(LocalReporter):
    """Request a graceful stop after a step."""

    def __init__(self, step: int, *, at: int) -> None:
        super().__init__(lambda: self.reached >= step - 1)  # the stop takes effect one step after the request
        self.reached = at

    def progress(self, progress: Progress) -> None:
        self.reached = progress.step


def replay_by_one_process(job: Job, folder: Path, into: Path) -> tuple[dict[int, float], dict[int, float]]:
    """Repeat every stretch of the run in `folder` with one process, two stretches side by side.

    Returns:
        The loss by step, and by step of a checkpoint the relative L2 distance of its tensors from those of
        the replay: the largest over the kinds of tensors.
    """
    saved = sorted(int(one.parent.name.removeprefix("step_")) for one in folder.glob("step_*/manifest.json"))
    stretches, job = list(pairwise([0, *saved])), override(job, {"train.workers": 1})
    parts = {into / "even.json": stretches[::2], into / "odd.json": stretches[1::2]}
    with ThreadPoolExecutor(len(parts)) as side_by_side:
        for each in [
            side_by_side.submit(on_ranks, 1, _replay, job, folder, into, part, log, apart=True)
            for log, part in parts.items()
        ]:
            each.result()
    losses = {int(step): loss for log in parts for step, loss in json.loads(log.read_text()).items()}
    return losses, {last: _distance(folder, into / f"to_{last}" / folder.name, last) for last in saved}


def _replay(job: Job, folder: Path, into: Path, stretches: list[tuple[int, int]], log: Path) -> None:
    losses = {}
    for first, last in stretches:
        store, recorder = into / f"to_{last}", Recorder()
        if first:
            name = f"step_{first:06d}"
            shutil.copytree(folder / name, store / folder.name / name)
        run = Run(name=folder.name, store=str(store))
        loop.train(job, run=run, reporter=StopAfter(last, at=first), tracker=recorder)
        losses |= {step: values["train/loss"] for step, values in recorder.points if "train/loss" in values}
    log.write_text(json.dumps(losses))


def _distance(folder: Path, again: Path, step: int) -> float:
    one, other = (checkpoint(run.parent, run.name, step) for run in (folder, again))
    distances = []
    for kind in KINDS:
        saved, replayed = one.all(kind), other.all(kind)
        assert saved.keys() == replayed.keys()
        differences = [(saved[name].double() - replayed[name].double()).norm() for name in saved]
        size = torch.stack([tensor.double().norm() for tensor in replayed.values()]).norm()
        distances.append(float(torch.stack(differences).norm() / size))
    return max(distances)
