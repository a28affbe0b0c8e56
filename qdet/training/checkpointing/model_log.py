"""The models that a finished training leaves in MLflow: its best checkpoint's, and its last one's."""

import tempfile
from pathlib import Path

from qdet.checkpoint import Checkpoint, RunFolder
from qdet.checkpoint.run_folder import best_of
from qdet.errors import CheckpointError
from qdet.tracking import ModelFacts, NullTracker, Tracker

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
    manifests = run.manifests()
    best = best_of(manifests)
    if best is None:
        return {}
    last = max(manifests)
    return ({} if best.step == last else {LAST: last}) | {BEST: best.step}  # the page shows what comes last


def _log(run: RunFolder, step: int, name: str, tracker: Tracker) -> None:
    from qdet.exporting.mlflow_model import check_mlflow_model, write_mlflow_model

    saved = Checkpoint(run.at(step))
    with tempfile.TemporaryDirectory(prefix="qdet-model-") as folder:
        model = write_mlflow_model(saved, Path(folder) / name)
        check_mlflow_model(model, saved)
        params = {"step": step, "weights": "averaged" if model.averaged else "trained"}
        facts = ModelFacts(name=name, step=step, metrics=model.metrics, params=params)
        tracker.model(model.folder, facts)
