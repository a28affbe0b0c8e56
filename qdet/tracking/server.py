"""Where MLflow stores its runs, and how to view them."""

import os
import subprocess
from pathlib import Path

COMMIT_VARIABLE = "QDET_GIT_COMMIT"
"""Passes the commit on to processes without the repository, such as Ray workers."""


def tracking_uri() -> str:
    """Return MLFLOW_TRACKING_URI, or an absolute local sqlite database in the working directory.

    Relative sqlite addresses become absolute, as workers run elsewhere.
    """
    given = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    if not given:
        return f"sqlite:///{Path.cwd() / 'mlflow.db'}"
    database = local_database(given)
    return given if database is None else f"sqlite:///{database}"


def local_database(uri: str) -> Path | None:
    """Return the absolute path of a sqlite database, or None for any other address."""
    if not uri.startswith("sqlite:///"):
        return None
    return (Path.cwd() / uri.removeprefix("sqlite:///")).absolute()


def artifact_location(uri: str, experiment: str) -> str | None:
    """Return where a new experiment stores files: `mlruns` beside a sqlite database, else None."""
    database = local_database(uri)
    if database is None:
        return None
    safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in experiment)
    return (database.parent / "mlruns" / safe).as_uri()


def tracking_environment() -> dict[str, str]:
    """Return the environment variables that make a worker log to the same server, with the same commit."""
    environment = {
        "MLFLOW_TRACKING_URI": tracking_uri(),
        "MLFLOW_LOGGING_LEVEL": "WARNING",  # otherwise it logs the tables of a new database
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "DO_NOT_TRACK": "true",
    }
    commit = git_commit()
    return environment | ({COMMIT_VARIABLE: commit} if commit else {})


def quiet_environment() -> None:
    """Make this process's MLflow client fail fast, since the spool retries, and disable its telemetry.

    By default it waits minutes for a server that does not answer. Variables set by the user are kept.
    """
    for name, value in {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_LOGGING_LEVEL": "WARNING",  # otherwise it logs the tables of a new database
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",  # nothing here loads a model that way
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "DO_NOT_TRACK": "true",
        "GIT_PYTHON_REFRESH": "quiet",
    }.items():
        os.environ.setdefault(name, value)


def load_mlflow() -> None:
    """Import MLflow as a whole, before any part of it.

    A thread that imports a part holds the part's import lock while it waits for the whole, and a thread that
    imports the whole comes to wait for the part: Python then gives one of them a module that is not complete.
    """
    quiet_environment()
    import mlflow  # noqa: F401 - for its effect


def git_commit() -> str | None:
    """Return the code's commit: QDET_GIT_COMMIT, else git's for the working directory."""
    given = os.environ.get(COMMIT_VARIABLE, "").strip()
    if given:
        return given
    try:
        said = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return said.stdout.strip() or None
