"""The run in MLflow that a spool belongs to: found by its name, or created."""

import contextlib
from typing import Any

from qdet.errors import TrackingError
from qdet.tracking.masking import mask
from qdet.tracking.server import artifact_location

NAME_TAG = "qdet.run"
"""Tag that holds a run's unique name, by which every process of it, and a later resume, find the same run."""


def find_or_create_run(client: Any, about: dict[str, Any], uri: str) -> Any:
    """Return the run of that id; else the one of that name in the experiment; else a new one."""
    from mlflow.exceptions import MlflowException

    if about.get("run_id"):
        try:
            return client.get_run(about["run_id"])
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                raise TrackingError(f"MLflow run {about['run_id']} is not at {mask(uri)}") from error
            raise
    experiment = _experiment(client, about["experiment"], uri)
    quoted = about["run_name"].replace("'", "")
    found = client.search_runs([experiment], filter_string=f"tags.`{NAME_TAG}` = '{quoted}'", max_results=1)
    if found:
        return found[0]
    return client.create_run(
        experiment,
        start_time=about["created"],
        run_name=about["run_name"],
        tags=about["tags"] | {NAME_TAG: quoted},
    )


def _experiment(client: Any, name: str, uri: str) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        # Another process may have created it in between.
        with contextlib.suppress(MlflowException):
            return client.create_experiment(name, artifact_location(uri, name))
        found = client.get_experiment_by_name(name)
    if found is None:
        raise TrackingError(f"MLflow experiment {name!r} cannot be created at {mask(uri)}")
    if found.lifecycle_stage != "active":
        raise TrackingError(
            f"MLflow experiment {name!r} was deleted; restore it, or choose another --track.experiment"
        )
    return found.experiment_id
