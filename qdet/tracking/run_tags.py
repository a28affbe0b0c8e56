"""The tags by which MLflow's pages show who started a run, with which program, and below which run."""

import getpass
import os
import sys
from pathlib import Path

from qdet.tracking.server import git_commit

SOURCE = "mlflow.source.name"
"""MLflow's tag for the program of a run."""


def program_name() -> str:
    """Return the name of the program that this process runs, such as that of its job file."""
    return Path(sys.argv[0]).name or "python"


def run_tags(parent_run_id: str | None) -> dict[str, str]:
    """Return the tags of user, source and parent run."""
    found = {
        SOURCE: program_name(),
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": git_commit(),
        "mlflow.parentRunId": parent_run_id,
    }
    try:
        found["mlflow.user"] = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        found["mlflow.user"] = str(os.getuid())
    return {key: value for key, value in found.items() if value}
