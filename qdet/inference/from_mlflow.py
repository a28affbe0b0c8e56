"""Models that MLflow keeps: of a run, or of its registry."""

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qdet.errors import TrackingError, first_line
from qdet.inference.exported_files import MODEL
from qdet.masking import mask
from qdet.tracking import tracking_uri
from qdet.tracking.database import require_database
from qdet.tracking.server import quiet_environment

ENDINGS = (".safetensors", ".onnx")
"""Files that are a model."""


def is_mlflow(where: str) -> bool:
    """True for runs:/ID and models:/NAME."""
    return where.startswith(("runs:/", "models:/"))


def is_run_id(where: str) -> bool:
    """True for what looks like the id of an MLflow run and no path."""
    return re.fullmatch(r"[0-9a-f]{32}", where) is not None and not Path(where).exists()


@contextmanager
def downloaded_model(where: str) -> Iterator[str]:
    """Give the model of a run or of the registry as a file here, for as long as the block lasts.

    Args:
        where: `runs:/ID`, `runs:/ID/FOLDER`, `models:/NAME@ALIAS`, `models:/NAME/VERSION` or a run's id.

    Raises:
        ConfigError: There is no local database.
        TrackingError: The server does not answer, or there is no such run, name or model.
    """
    if is_run_id(where):
        where = f"runs:/{where}"
    if re.fullmatch(r"runs:/[^/]+/?", where):
        where = f"{where.rstrip('/')}/model"
    uri = tracking_uri()
    require_database(uri)
    quiet_environment()
    import mlflow
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    with tempfile.TemporaryDirectory(prefix="qdet-mlflow-") as here:
        try:
            mlflow.set_tracking_uri(uri)
            folder = Path(download_artifacts(where, tracking_uri=uri, dst_path=here))
        except (MlflowException, OSError) as error:
            raise TrackingError(
                f"{where} is not to be had from {mask(uri)}: {mask(first_line(error))}; check the name, and "
                "MLFLOW_TRACKING_URI for another server"
            ) from error
        yield str(_model_in(folder, where))


def _model_in(folder: Path, where: str) -> Path:
    if folder.is_file():
        return folder
    found = sorted(p for p in folder.rglob("*") if p.suffix in ENDINGS and p.is_file())
    best = next((p for p in found if p.name == MODEL), found[0] if found else None)
    if best is None:
        raise TrackingError(f"{where} holds no model of qdet: there is no {MODEL} in it")
    return best
