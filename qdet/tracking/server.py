"""Where MLflow keeps its runs, and how one looks at them."""

import os
import shlex
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

from qdet.masking import mask

COMMIT_VARIABLE = "QDET_GIT_COMMIT"
"""Carries the commit to where the code runs without its repository, as in what Ray unpacked on a worker."""


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
    """The absolute path of a sqlite database, or None for any other address."""
    if not uri.startswith("sqlite:///"):
        return None
    return (Path.cwd() / uri.removeprefix("sqlite:///")).absolute()


def artifact_location(uri: str, experiment: str) -> str | None:
    """Where a new experiment keeps files: `mlruns` beside a sqlite database, else what its server says."""
    database = local_database(uri)
    if database is None:
        return None
    safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in experiment)
    return (database.parent / "mlruns" / safe).as_uri()


def tracking_environment() -> dict[str, str]:
    """Environment variables that let a worker log to the same server, with the same commit."""
    environment = {
        "MLFLOW_TRACKING_URI": tracking_uri(),
        "MLFLOW_LOGGING_LEVEL": "WARNING",  # else it reports the tables of a new database
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "DO_NOT_TRACK": "true",
    }
    commit = git_commit()
    return environment | ({COMMIT_VARIABLE: commit} if commit else {})


def quiet_environment() -> None:
    """Make this process's MLflow client give up early, as the spool retries, and keep it from phoning home.

    Its own defaults wait for minutes on a server that does not answer. What the user has set stays.
    """
    for name, value in {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_LOGGING_LEVEL": "WARNING",  # else it reports the tables of a new database
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",  # nothing here loads a model that way
        "DO_NOT_TRACK": "true",
        "GIT_PYTHON_REFRESH": "quiet",
    }.items():
        os.environ.setdefault(name, value)


def mlflow_ui_command(uri: str | None = None) -> str:
    """Say what opens the MLflow pages: a command for a database, the address for a server."""
    uri = uri or tracking_uri()
    if urlsplit(uri).scheme in ("http", "https"):
        return f"open {mask(uri)}"
    beside = Path(sys.executable).parent / "mlflow"
    program = str(beside) if beside.exists() else "mlflow"
    if beside.exists() and beside.is_relative_to(Path.cwd()):
        program = str(beside.relative_to(Path.cwd()))
    # Loopback, and no other name for it: a page elsewhere could otherwise have its name point here.
    guard = ["--host", "127.0.0.1", "--allowed-hosts", "localhost:*,127.0.0.1:*"]
    return shlex.join([program, "ui", "--backend-store-uri", mask(uri), *guard])


def git_commit() -> str | None:
    """The commit the code is at: QDET_GIT_COMMIT, else what git says of the working directory."""
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
