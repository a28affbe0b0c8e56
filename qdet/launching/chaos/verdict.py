"""Whether a broken run ends bitwise as the undisturbed one."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from qdet.checkpoint import Checkpoint, open_folder
from qdet.launching.chaos.trial import Trial
from qdet.storage import Folder
from qdet.training.corruption.record import read_incidents

if TYPE_CHECKING:
    from mlflow import MlflowClient


def find_problems(trial: Trial, undisturbed: Trial, *, steps: int, tracking_uri: str) -> list[str]:
    """Return how a run differs from the undisturbed one, one line per problem.

    Compares all tensors of the last checkpoint bit by bit (weights, average, moments), and looks at MLflow:
    one run, finished, with a loss at every step, and no image lost or duplicated in any epoch.
    """
    last = f"step_{steps:06d}"
    found = compare_checkpoints(trial.run_folder / last, undisturbed.run_folder / last)
    found += check_flips(trial)
    return found + check_mlflow(trial.name, steps=steps, tracking_uri=tracking_uri)


def compare_checkpoints(one: Path, other: Path) -> list[str]:
    """Return a problem if any tensor of two checkpoints is not bitwise equal, else nothing."""
    a, b = Checkpoint(open_folder(one)), Checkpoint(open_folder(other))
    if a.shapes != b.shapes:
        return ["the checkpoints hold other tensors"]
    different = [name for name in a.shapes if not torch.equal(_bits(a.whole(name)), _bits(b.whole(name)))]
    return [f"{len(different)} tensors differ, such as {different[0]}"] if different else []


def check_flips(trial: Trial) -> list[str]:
    """Return a problem if more or fewer flipped bits were found than there were.

    A worker that another fault killed may have flipped a bit that nobody had compared yet.
    """
    flipped, found = trial.flips.answered(), len(read_incidents(Folder.open(trial.run_folder)))
    alone = all(event.fault == "flip" for event in trial.events)
    if flipped == found or (found < flipped and not alone):
        return []
    return [f"{flipped} bits were flipped, and {found} found"]


def check_mlflow(run_name: str, *, steps: int, tracking_uri: str) -> list[str]:
    """Return what MLflow has wrong about a run that finished."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=tracking_uri)
    experiments = [e.experiment_id for e in client.search_experiments()]
    runs = [r for r in client.search_runs(experiments) if r.info.run_name == run_name]
    if len(runs) != 1:
        return [f"MLflow has {len(runs)} runs of that name"]
    found = [] if runs[0].info.status == "FINISHED" else [f"MLflow says it is {runs[0].info.status}"]
    at = [point.step for point in client.get_metric_history(runs[0].info.run_id, "train/loss")]
    if sorted(set(at)) != list(range(1, steps + 1)):
        found.append("the loss has no point at some steps")
    return found + check_ledgers(client, runs[0].info.run_id)


def check_ledgers(client: "MlflowClient", run_id: str) -> list[str]:
    """Return the epochs that lost or doubled images, one line each, or that none was accounted for."""
    received, lost, doubled = (
        {point.step: int(point.value) for point in client.get_metric_history(run_id, f"data/{name}")}
        for name in ("received", "lost", "duplicated")
    )
    if not received:
        return ["no epoch was accounted for"]
    return [
        f"the epoch up to step {step} lost {lost.get(step, 0)} and doubled {doubled.get(step, 0)} images"
        for step in sorted(lost.keys() | doubled.keys())
    ]


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(torch.uint8) if tensor.ndim else tensor.reshape(1).view(torch.uint8)
