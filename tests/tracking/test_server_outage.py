"""A tracking server that is unreachable, dies and comes back, or hangs: training never notices."""

import logging
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from qdet.errors import TrackingError
from qdet.tracking import MLflowTracker, send_spool


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """An MLflow server on a loopback port that can be killed and started again."""

    def __init__(self, folder: Path, database: Path) -> None:
        self.port, self.folder, self.database = free_port(), folder, database
        self.uri = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        settings = {
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--port", str(self.port)]
        stores = [
            f"--backend-store-uri=sqlite:///{self.database}",
            f"--artifacts-destination={self.folder / 'artifacts'}",
        ]
        with (self.folder / "server.log").open("a") as log:
            self.process = subprocess.Popen(
                command + stores, stdout=log, stderr=log, env=os.environ | settings, start_new_session=True
            )
        until = time.monotonic() + 120
        while time.monotonic() < until:
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=2):
                    return
            except OSError:
                time.sleep(0.2)
        raise TimeoutError((self.folder / "server.log").read_text())

    def kill(self) -> None:
        os.killpg(self.process.pid, 9)
        self.process.wait()


@pytest.fixture
def server(tmp_path, database):
    one = Server(tmp_path, database)
    one.start()
    yield one
    one.kill()


@pytest.mark.slow
def test_points_of_an_outage_arrive_when_the_server_is_back(tmp_path, server, caplog):
    from mlflow import MlflowClient

    caplog.set_level(logging.WARNING, "qdet")
    tracker = MLflowTracker.open(
        tmp_path / "spool", experiment="e", run_name="r", tracking_uri=server.uri, system_metrics=1
    )
    assert tracker.wait_for_run(30)
    tracker.metrics({"loss": 0.0}, 0)
    server.kill()
    started = time.monotonic()
    for step in range(1, 1500):
        tracker.metrics({"loss": float(step)}, step)
    (tmp_path / "note.txt").write_text("kept")
    tracker.artifact(tmp_path / "note.txt", "notes")
    assert time.monotonic() - started < 1
    (tmp_path / "note.txt").unlink()
    while "takes no points" not in caplog.text:
        time.sleep(0.1)
    server.start()
    assert tracker.close("FINISHED", wait=60)
    assert caplog.text.count("takes no points") == 1  # said once

    client = MlflowClient(tracking_uri=server.uri)
    history = client.get_metric_history(tracker.run_id, "loss")
    assert sorted((m.step, m.value) for m in history) == [(s, float(s)) for s in range(1500)]
    assert [f.path for f in client.list_artifacts(tracker.run_id, "notes")] == ["notes/note.txt"]
    assert client.get_run(tracker.run_id).info.status == "FINISHED"


def test_an_unreachable_server_costs_training_nothing(tmp_path, caplog):
    uri = f"http://user:hidden-word@127.0.0.1:{free_port()}"
    tracker = MLflowTracker.open(tmp_path / "spool", experiment="e", run_name="r", tracking_uri=uri)
    started = time.monotonic()
    assert tracker.wait_for_run(60) is None  # a server known to be down is not waited for
    assert time.monotonic() - started < 30
    started = time.monotonic()
    for step in range(1000):
        tracker.metrics({"loss": 1.0, "lr": 2.0}, step)
    assert time.monotonic() - started < 1
    started = time.monotonic()
    assert not tracker.close("FINISHED", wait=20)
    assert time.monotonic() - started < 20
    assert tracker.run_id is None
    assert f"python -m qdet sync-tracking {tmp_path / 'spool'}" in caplog.text
    points = (tmp_path / "spool" / "points.jsonl").read_text().splitlines()
    assert len(points) == 1002  # begin, the points, end
    kept = "".join(f.read_text() for f in (tmp_path / "spool").iterdir() if f.is_file())
    assert "hidden-word" not in kept + caplog.text


def test_a_server_that_never_answers_blocks_nothing(tmp_path):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(8)
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        tracker = MLflowTracker.open(tmp_path / "spool", experiment="e", run_name="r", tracking_uri=uri)
        started = time.monotonic()
        for step in range(100):
            tracker.metrics({"loss": 1.0}, step)
        assert time.monotonic() - started < 0.5
        assert not tracker.close("FINISHED", wait=1)
        assert time.monotonic() - started < 5
    assert len((tmp_path / "spool" / "points.jsonl").read_text().splitlines()) == 102


def test_a_spool_left_behind_is_sent_later(tmp_path, database):
    """In a process of its own, as a run whose server was never there leaves it."""
    from mlflow import MlflowClient

    code = f"""
from pathlib import Path
from qdet.tracking import MLflowTracker
tracker = MLflowTracker.open(Path({str(tmp_path)!r}) / "runs" / "r", experiment="late", run_name="r",
                             tracking_uri="http://127.0.0.1:{free_port()}")
tracker.params({{"lr": 0.5}})
for step in range(20):
    tracker.metrics({{"loss": step}}, step)
tracker.text("hello", "note.txt")
tracker.close("FAILED", wait=0.5)
"""
    left = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=90, check=True
    )
    assert "sync-tracking" in left.stderr
    uri = f"sqlite:///{database}"
    assert send_spool(tmp_path / "runs", uri) == 24
    assert send_spool(tmp_path / "runs", uri) == 0
    client = MlflowClient(tracking_uri=uri)
    (run,) = client.search_runs([client.get_experiment_by_name("late").experiment_id])
    assert run.info.status == "FAILED"
    assert run.data.params == {"lr": "0.5"}
    assert [m.step for m in client.get_metric_history(run.info.run_id, "loss")] == list(range(20))
    assert [f.path for f in client.list_artifacts(run.info.run_id)] == ["note.txt"]
    assert (database.parent / "mlruns" / "late").is_dir()


def test_the_send_command_reports_what_is_wrong(tmp_path):
    with pytest.raises(TrackingError, match="holds no spool"):
        send_spool(tmp_path)
    tracker = MLflowTracker.open(
        tmp_path / "s", experiment="e", run_name="r", tracking_uri=f"http://127.0.0.1:{free_port()}"
    )
    with pytest.raises(TrackingError, match="still going"):
        send_spool(tmp_path)
    assert not tracker.close(wait=5)
