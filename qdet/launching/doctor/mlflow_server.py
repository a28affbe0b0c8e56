"""Whether MLflow takes runs: its server is asked from every machine, and one run is written and removed."""

import urllib.error
import urllib.parse
import urllib.request
from http import HTTPStatus

from qdet.errors import TrackingError, type_and_first_line
from qdet.launching.doctor.facts import Mlflow
from qdet.masking import mask
from qdet.tracking.server import artifact_location, local_database

EXPERIMENT = "qdet doctor"


def try_to_reach(uri: str, seconds: float) -> str | None:
    """Return why a server does not answer from this machine; None where it does, or is no server."""
    if not is_server(uri):
        return None
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=seconds):
            return None
    except urllib.error.HTTPError as answer:
        if answer.code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            return None  # it is up; whether it takes a login is seen when a run is written
        return f"it answers {answer.code} {answer.reason}"
    except (OSError, ValueError) as error:
        return mask(str(getattr(error, "reason", error)))


def is_server(uri: str) -> bool:
    """Whether a tracking URI is that of a server."""
    return uri.startswith(("http://", "https://"))


def try_to_write(uri: str, seconds: float) -> Mlflow:
    """Write a run with a metric, read it back and delete it; a database that is not there is not made."""
    database, error = local_database(uri), try_to_reach(uri, seconds)
    if database is not None and not database.is_file():
        return describe(uri)
    if error is None:
        try:
            _write(uri)
        except TrackingError as failure:
            error = str(failure)
        except Exception as failure:  # MLflow and its databases have errors of their own
            error = mask(type_and_first_line(failure))
    return describe(uri, error)


def describe(uri: str, error: str | None = None) -> Mlflow:
    """Return what is known of a tracking URI, which may hold a password."""
    local = local_database(uri) is not None or uri.startswith(("file:", "/"))
    return Mlflow(uri=mask(uri), local=local, error=error)


def _write(uri: str) -> None:
    from qdet.tracking.database import open_client

    client = open_client(uri)
    found = client.get_experiment_by_name(EXPERIMENT)
    if found is not None and found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    made = None if found else client.create_experiment(EXPERIMENT, artifact_location(uri, EXPERIMENT))
    experiment = found.experiment_id if found else made
    run = client.create_run(experiment, run_name="probe").info.run_id
    try:
        client.log_metric(run, "probe", 1.0)
        if client.get_run(run).data.metrics.get("probe") != 1.0:
            raise TrackingError("it does not give back the metric that was written")
    finally:
        client.delete_run(run)
