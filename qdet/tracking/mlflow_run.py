"""The run in MLflow that a spool belongs to: found by its name, or created."""

import contextlib
import time
import uuid
from typing import Any

from qdet.errors import TrackingError
from qdet.masking import mask
from qdet.tracking.database import open_client
from qdet.tracking.server import artifact_location
from qdet.tracking.view import view_tags

NAME_TAG = "qdet.run"
"""Tag that holds a run's unique name, by which every process of it, and a later resume, find the same run."""

HASH_TAG = "qdet.hash"
"""Tag that tells runs of one name in different stores apart; runs of earlier versions have none."""

CLAIM_TAG = "qdet.claim"
"""Tag that says when a run was created, to the nanosecond; removed once the run is settled."""


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
    name = about["run_name"].replace("'", "")
    found = _first_of_name(client, experiment, name, about.get("run_hash"))
    if found is not None:
        return found
    if about.get("run_hash"):
        about["tags"][HASH_TAG] = about["run_hash"]
    tags = about["tags"] | {NAME_TAG: name, CLAIM_TAG: f"{time.time_ns():020d}-{uuid.uuid4().hex}"}
    mine = client.create_run(experiment, start_time=about["created"], run_name=about["run_name"], tags=tags)
    # A driver and its worker may both create one when a server recovers: the first one counts.
    first = _first_of_name(client, experiment, name, about.get("run_hash")) or mine
    if first.info.run_id != mine.info.run_id:
        client.delete_run(mine.info.run_id)
    elif CLAIM_TAG in mine.data.tags:  # without it, it comes before any later one
        client.delete_tag(mine.info.run_id, CLAIM_TAG)
    return first


def has_ended(run_id: str, uri: str) -> bool:
    """Whether MLflow reports a run as over; False if it does not answer."""
    client = open_client(uri)
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(run_id).info.status != "RUNNING"
    except MlflowException:
        return False


def _first_of_name(client: Any, experiment: str, name: str, run_hash: str | None) -> Any:
    wanted = f"tags.`{NAME_TAG}` = '{name}'" + (f" AND tags.`{HASH_TAG}` = '{run_hash}'" if run_hash else "")
    found = client.search_runs([experiment], filter_string=wanted)
    return min(found, key=lambda run: (run.data.tags.get(CLAIM_TAG, ""), run.info.start_time), default=None)


def _experiment(client: Any, name: str, uri: str) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        # Another process may have created it in between.
        with contextlib.suppress(MlflowException):
            return client.create_experiment(name, artifact_location(uri, name), tags=view_tags())
        found = client.get_experiment_by_name(name)
    if found is None:
        raise TrackingError(f"MLflow experiment {name!r} cannot be created at {mask(uri)}")
    if found.lifecycle_stage != "active":
        raise TrackingError(
            f"MLflow experiment {name!r} was deleted; restore it, or choose another --track.experiment"
        )
    return found.experiment_id
