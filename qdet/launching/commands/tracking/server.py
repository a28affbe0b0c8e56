"""An MLflow server for one person's browser: one process, this machine only, ended with its command."""

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from qdet.errors import TrackingError
from qdet.masking import mask
from qdet.tracking.server import local_database

STARTING = 300.0
"""Seconds; a busy machine of two cores took 42."""
ENDING = 10.0
"""Seconds to end by itself."""
HOST = "127.0.0.1"


@contextmanager
def mlflow_server(uri: str, port: int, log: Path) -> Iterator[str]:
    """Run a server for as long as the block lasts, and yield its address once it answers.

    Args:
        uri: The database with the runs.
        port: Where it listens, on this machine only.
        log: What it prints.

    Raises:
        TrackingError: It does not start; the message ends with what it said.
    """
    address = f"http://{HOST}:{port}"
    with log.open("wb") as out:
        process = subprocess.Popen(
            _command(port),
            env=server_environment(uri),
            cwd=_folder(uri),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for this process, which ends the server itself
        )
    try:
        _wait(process, address, log)
        yield address
    finally:
        _end(process)


def server_environment(uri: str, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the variables of a light server: no job runner, no telemetry, the database out of `ps`."""
    kept = {name: value for name, value in environment.items() if name != "MLFLOW_TRACKING_URI"}
    database = local_database(uri)
    files = {} if database is None else {"MLFLOW_ARTIFACTS_DESTINATION": str(database.parent / "mlruns")}
    return (
        kept
        | files
        | {
            "MLFLOW_BACKEND_STORE_URI": uri,
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "true",
            "OMP_NUM_THREADS": "1",
        }
    )


def _command(port: int) -> list[str]:
    # Only loopback names: another site's name could otherwise be made to resolve here (DNS rebinding).
    names = "localhost:*,127.0.0.1:*"
    flags = ("--workers", "1", "--host", HOST, "--port", str(port), "--allowed-hosts", names)
    return [sys.executable, "-m", "mlflow", "server", *flags]


def _folder(uri: str) -> Path:
    """Return the folder to run in: the database's, as MLflow may make folders where it runs."""
    database = local_database(uri)
    return Path.cwd() if database is None else database.parent


def _wait(process: "subprocess.Popen[bytes]", address: str, log: Path) -> None:
    until = time.monotonic() + STARTING
    while time.monotonic() < until:
        if process.poll() is not None:
            last = "\n".join(log.read_text(errors="replace").strip().splitlines()[-5:])
            raise TrackingError(f"MLflow's server ended with exit code {process.returncode}:\n{mask(last)}")
        if answers(address):
            return
        time.sleep(0.3)
    raise TrackingError(f"MLflow's server does not answer after {STARTING:.0f} s; see {log}")


def answers(address: str) -> bool:
    """Whether an MLflow server answers at that address."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{address}/health", timeout=5) as reply:
            return reply.status == 200
    except (OSError, urllib.error.URLError):
        return False


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End the server and the processes that it has started: all of its session."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(ENDING)
        except subprocess.TimeoutExpired:
            continue
        except ProcessLookupError:
            return
