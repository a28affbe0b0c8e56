"""Status of a run in MLflow after its driver is killed, fails or finishes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

DRIVER = """
import os, sys, time
from qdet.job import Job
from qdet.config import override
from qdet.launching.runs import session
from types import SimpleNamespace
from qdet.launching.runs.prepared import Prepared, prepare

session._log_inputs = lambda tracker, prepared: None  # no shards are needed here
Prepared.val = SimpleNamespace(digest="0" * 64)
job = override(Job(name="w"), {"store.path": sys.argv[1]})
with session.open_session(prepare(job)) as opened:
    print(opened.run.mlflow_run_id, flush=True)
    if sys.argv[2] == "fail":
        raise RuntimeError("broken on purpose")
    if sys.argv[2] == "wait":
        time.sleep(600)
"""


@pytest.fixture
def drive(tmp_path: Path):
    """Return a function that starts a driver and returns its process and MLflow run id."""
    started: list[subprocess.Popen[str]] = []

    def start(what: str) -> tuple[subprocess.Popen[str], str]:
        environment = os.environ | {
            "QDET_ROOT": str(tmp_path),
            "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db",
        }
        process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(tmp_path / "store"), what],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout is not None
        return process, process.stdout.readline().strip()

    yield start
    for process in started:
        process.kill()
        process.wait()


def info(tmp_path: Path, run_id: str):
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db").get_run(run_id)


@pytest.mark.ci_slow
@pytest.mark.slow
def test_a_killed_drivers_run_is_marked_killed(drive, tmp_path: Path):
    process, run_id = drive("wait")
    assert info(tmp_path, run_id).info.status == "RUNNING"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 60
    while info(tmp_path, run_id).info.status == "RUNNING" and time.monotonic() < deadline:
        time.sleep(0.5)
    run = info(tmp_path, run_id)
    assert run.info.status == "KILLED"
    assert "kill -9" in run.data.tags["qdet.cause"]


@pytest.mark.slow
@pytest.mark.parametrize(("what", "status"), [("finish", "FINISHED"), ("fail", "FAILED")])
def test_a_driver_that_exits_sets_its_own_status(drive, tmp_path: Path, what: str, status: str):
    process, run_id = drive(what)
    assert process.wait(timeout=60) == (1 if what == "fail" else 0)
    assert info(tmp_path, run_id).info.status == status
    time.sleep(3.0)  # longer than a witness would wait
    assert info(tmp_path, run_id).info.status == status
