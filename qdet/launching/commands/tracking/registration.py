"""Which MLflow run a user means by a folder, a name or an id."""

import os
from pathlib import Path

from qdet.checkpoint import run_names
from qdet.errors import ConfigError
from qdet.inference.from_mlflow import is_mlflow, is_run_id
from qdet.launching import paths
from qdet.launching.runs import record
from qdet.masking import MASK
from qdet.tracking.registry import Registered, check_names, find_run_id, register_model
from qdet.training.checkpointing.model_log import BEST, LAST


def register(source: str, *, name: str, alias: str | None, checkpoint: str) -> Registered:
    """Register a run's model.

    Args:
        source: The run's folder, its name, or the id of its MLflow run.
        name: Of the registered model.
        alias: Moved to the new version.
        checkpoint: `best` or `last`.

    Raises:
        ConfigError: The name or the alias cannot be used, or the folder holds no run.
        TrackingError: There is no such run or model, or the server does not answer.
    """
    check_names(name, alias)
    run_id, uri = find_run(source)
    return register_model(run_id, BEST if checkpoint == "best" else LAST, name=name, alias=alias, uri=uri)


def find_run(source: str) -> tuple[str, str]:
    """Return a run's MLflow id and its server: MLFLOW_TRACKING_URI, else the one it was logged to."""
    if is_mlflow(source):
        raise ConfigError(f"{source}: give the run itself, its folder, name or id, without a prefix")
    if is_run_id(source):
        return source, paths.tracking_uri()
    folder = _find_folder(source)
    if (folder / record.RECORD).is_file():
        known = record.read(str(folder.parent), folder.name)
        uri = paths.tracking_uri()
        if not os.environ.get(paths.TRACKING) and known.tracking_uri and MASK not in known.tracking_uri:
            uri = known.tracking_uri
        return known.mlflow_run_id or find_run_id(known.name, uri), uri
    if Path(source).expanduser().is_dir():
        raise ConfigError(f"{source} is not the folder of a run: it has no {record.RECORD}")
    return find_run_id(source, paths.tracking_uri()), paths.tracking_uri()


def _find_folder(source: str) -> Path:
    """Return the folder of a run by its path, a checkpoint's, or a part of its name; existing or not."""
    found = run_names.find_folder(source)
    folder = Path(source) if found is None or found.local is None else found.local
    return folder.parent if folder.name.startswith("step_") else folder
