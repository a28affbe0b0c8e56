"""A report in MLflow, at once: a user waits for it, where a training must not."""

from collections.abc import Mapping
from pathlib import Path

from qdet.errors import TrackingError, first_line
from qdet.masking import mask
from qdet.tracking import tracking_uri
from qdet.tracking.server import quiet_environment


def log_to_mlflow(run_id: str, metrics: Mapping[str, float], files: Path, *, folder: str, step: int) -> None:
    """Log metrics at a step, and every file of the folder `files` into `folder` of the run.

    Raises:
        TrackingError: MLflow does not answer, or has no such run.
    """
    quiet_environment()
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    uri = tracking_uri()
    try:
        client = MlflowClient(tracking_uri=uri)
        client.get_run(run_id)
        for name, value in metrics.items():
            client.log_metric(run_id, name, value, step=step)
        client.log_artifacts(run_id, str(files), artifact_path=folder)
    except (MlflowException, OSError) as error:
        reason = mask(first_line(error))
        raise TrackingError(
            f"the report cannot be logged to run {run_id} of MLflow at {mask(uri)}: {reason}; check the id, "
            "and MLFLOW_TRACKING_URI for another server"
        ) from error
