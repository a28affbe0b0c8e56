"""The models that a finished training leaves in MLflow: its best checkpoint's, and its last one's."""

import math
import tempfile
from pathlib import Path

from qdet.checkpoint import Checkpoint, RunFolder
from qdet.checkpoint.manifest import read_manifest
from qdet.checkpoint.run_folder import METRIC
from qdet.errors import CheckpointError
from qdet.tracking import NullTracker, Tracker

BEST, LAST = "model", "last"
"""Names of the models in MLflow, as in `runs:/ID/model`."""


def log_models(run: RunFolder, tracker: Tracker) -> None:
    """Log the checkpoint with the highest val/AP as `model`, and the last one as `last` if that is another.

    Without an evaluation the last one is `model`. A model that cannot be written, or does not give what its
    checkpoint gives, is reported and left out: the run itself has its checkpoints.
    """
    if isinstance(tracker, NullTracker):
        return
    try:
        for name, step in choose_models(run).items():
            _log(run, step, name, tracker)
    except (CheckpointError, OSError) as error:
        print(f"MLflow gets no model of this run: {error}", flush=True)


def choose_models(run: RunFolder) -> dict[str, int]:
    """Return the steps of the checkpoints to log, by name."""
    ap: dict[int, float] = {}
    for step in run.steps():
        try:
            ap[step] = read_manifest(run.at(step)).metrics.get(METRIC, math.nan)
        except CheckpointError:  # one that was never finished
            continue
    if not ap:
        return {}
    last = max(ap)
    best = max((s for s in ap if math.isfinite(ap[s])), key=lambda step: (ap[step], step), default=last)
    return ({} if best == last else {LAST: last}) | {BEST: best}  # the page shows what comes last


def _log(run: RunFolder, step: int, name: str, tracker: Tracker) -> None:
    from qdet.exporting.mlflow_model import check_mlflow_model, write_mlflow_model

    saved = Checkpoint(run.at(step))
    with tempfile.TemporaryDirectory(prefix="qdet-model-") as folder:
        model = write_mlflow_model(saved, Path(folder) / name)
        check_mlflow_model(model, saved)
        tracker.model(
            model.folder,
            name=name,
            step=step,
            metrics=model.metrics,
            params={"step": step, "weights": "averaged" if model.averaged else "trained"},
        )
