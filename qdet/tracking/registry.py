"""MLflow's registry: names, versions and aliases of models that runs have logged."""

import json
import re
import shlex
from dataclasses import dataclass
from typing import Any

from qdet.errors import ConfigError, TrackingError, did_you_mean, first_line
from qdet.masking import mask
from qdet.storage.parsing import parse_json
from qdet.tracking.database import open_client, require_database
from qdet.tracking.logged_model import READY
from qdet.tracking.mlflow_run import NAME_TAG

VERSIONS_TAG = "mlflow.modelVersions"
"""Tag of a model by which the page shows its versions."""


@dataclass(frozen=True)
class Registered:
    """A version of a registered model."""

    name: str
    version: str
    alias: str | None
    step: str
    """Training steps behind its weights."""
    uri: str
    """The server it is at."""

    @property
    def address(self) -> str:
        """By which it is loaded."""
        return f"models:/{self.name}@{self.alias}" if self.alias else f"models:/{self.name}/{self.version}"

    def report(self) -> str:
        """Say what it is and how it is used."""
        alias = f", alias {self.alias}" if self.alias else ""
        first = f"{self.name} version {self.version}{alias}: the model after step {self.step}"
        return f"{first}, at {mask(self.uri)}\nuse it: qdet predict {shlex.quote(self.address)} photo.jpg"


def check_names(name: str, alias: str | None) -> None:
    """Raise `ConfigError` for a name or alias that MLflow does not allow."""
    if not name.strip() or set(name) & set("/:@"):
        raise ConfigError(f"--name {name!r}: a model's name is not empty and has none of / : @")
    if alias is not None and not re.fullmatch(r"[\w-]{1,255}", alias):
        raise ConfigError(f"--alias {alias!r}: an alias has letters, digits, - and _ only, such as champion")
    if alias is not None and re.fullmatch(r"latest|v\d+", alias, re.IGNORECASE):
        raise ConfigError(f"--alias {alias}: MLflow keeps that word for itself; take another, as champion")


def find_run_id(run_name: str, uri: str) -> str:
    """Return the id of the MLflow run of a name.

    Raises:
        ConfigError: There is no local database.
        TrackingError: There is no such run, or the server does not answer.
    """
    require_database(uri)
    with_tag, client = f"tags.`{NAME_TAG}` = '{run_name.replace(chr(39), '')}'", open_client(uri)
    try:
        experiments = [e.experiment_id for e in client.search_experiments()]
        found = client.search_runs(experiments, filter_string=with_tag, max_results=1)
        if found:
            return found[0].info.run_id
        latest = client.search_runs(experiments, order_by=["attributes.start_time DESC"], max_results=100)
    except Exception as error:
        raise _explain(error, uri) from error
    names = [str(run.data.tags.get(NAME_TAG)) for run in latest if NAME_TAG in run.data.tags]
    there = ", ".join(names[:5]) or "none"
    raise TrackingError(
        f"{mask(uri)} has no run {run_name}.{did_you_mean(run_name, names)} Latest runs: {there}"
    )


def register_model(run_id: str, model: str, *, name: str, alias: str | None, uri: str) -> Registered:
    """Make a run's model the newest version of `name`; a model that has a version of it keeps that one.

    Args:
        run_id: The MLflow run.
        model: Name of its model: `model` or `last`.
        name: Of the registered model, which is created if it is new.
        alias: Moved to the version.
        uri: The server.

    Raises:
        ConfigError: MLflow does not allow the name or the alias, or there is no local database.
        TrackingError: There is no such run or model, or the server does not answer.
    """
    check_names(name, alias)
    require_database(uri)
    client = open_client(uri)
    try:
        logged = _find_model(client, run_id, model, uri)
        version = _find_version(client, name, logged) or _create_version(client, name, logged)
        if alias:
            client.set_registered_model_alias(name, alias, version)
    except TrackingError:
        raise
    except Exception as error:
        raise _explain(error, uri) from error
    return Registered(name, version, alias, logged.params.get("step", "?"), uri)


def _find_model(client: Any, run_id: str, model: str, uri: str) -> Any:
    run = client.get_run(run_id)
    named = {
        one.name: one
        for one in reversed(client.search_logged_models([run.info.experiment_id], max_results=1000))
        if one.source_run_id == run_id and one.status == READY
    }
    if model == "last" and model not in named:  # the last checkpoint is the best one
        model = "model"
    if model in named:
        return named[model]
    state = run.info.status
    raise TrackingError(
        f"run {run.info.run_name} has no model at {mask(uri)}: "
        + ("it is still running" if state == "RUNNING" else f"it is {state}")
        + "; a finished run has one. What the server has not received yet is sent by qdet sync-tracking"
    )


def _find_version(client: Any, name: str, logged: Any) -> str | None:
    for version in client.search_model_versions(f"name = '{name.replace(chr(39), '')}'"):
        if version.name == name and version.source == logged.artifact_location:
            return str(version.version)
    return None


def _create_version(client: Any, name: str, logged: Any) -> str:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    # Not models:/ID as the source: MLflow would look for it at the process's own server.
    made = client.create_model_version(
        name, logged.artifact_location, run_id=logged.source_run_id, model_id=logged.model_id
    )
    versions = parse_json(logged.tags.get(VERSIONS_TAG, "[]"))
    versions.append({"name": name, "version": made.version})
    client.set_logged_model_tags(logged.model_id, {VERSIONS_TAG: json.dumps(versions)})
    return str(made.version)


def _explain(error: Exception, uri: str) -> TrackingError:
    first = mask(first_line(error))[:300]
    if getattr(error, "error_code", None) == "RESOURCE_DOES_NOT_EXIST":
        return TrackingError(f"{mask(uri)}: {first}")
    if "API request to" in first:  # what follows is of urllib3
        return TrackingError(
            f"{mask(uri)} does not answer; start the server, or set MLFLOW_TRACKING_URI to another"
        )
    return TrackingError(f"{mask(uri)}: {first}")
