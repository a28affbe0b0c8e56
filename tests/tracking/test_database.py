"""MLflow's local database: first runs at once, a process killed while it makes one, a half-migrated one."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qdet.errors import TrackingError
from qdet.tracking import MLflowTracker, prepare_database, send_spool
from qdet.tracking.database import _whole

REPO = Path(__file__).resolve().parents[2]


def start(folder: Path, name: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "tests.support.tracked_process", f"sqlite:///{folder}/mlflow.db"]
    process = subprocess.Popen(
        [*command, str(folder / name), name], cwd=folder, text=True, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=os.environ | {"PYTHONPATH": str(REPO)},
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    return process


def steps(folder: Path) -> dict[str, list[int]]:
    """Steps of the points of every run, by its name."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db")
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    return {
        run.info.run_name: sorted(p.step for p in client.get_metric_history(run.info.run_id, "loss"))
        for run in runs
    }


def half_migrate(database: Path) -> None:
    """Leave it as MLflow does when it is killed in the middle of its migrations."""
    with sqlite3.connect(database) as opened:
        opened.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")  # the third of them
        opened.execute("DROP TABLE trace_info")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_first_runs_at_once_share_a_new_database(tmp_path):
    processes = [start(tmp_path, name) for name in ("a", "b", "c")]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    said = {process: process.communicate(timeout=280)[0] for process in processes}
    assert [process.returncode for process in processes] == [0, 0, 0], said
    assert steps(tmp_path) == {name: list(range(20)) for name in "abc"}
    assert {p.name for p in tmp_path.glob(".mlflow.db.*")} == {".mlflow.db.lock"}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_process_killed_while_it_makes_the_database_leaves_none(tmp_path):
    process = start(tmp_path, "a")
    process.stdin.write("go\n")
    process.stdin.flush()
    while not any(file.stat().st_size for file in tmp_path.glob(".mlflow.db.new-????????")):
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "mlflow.db").exists()
    assert send_spool(tmp_path / "a") == 22  # 20 points, the beginning and the end
    assert steps(tmp_path) == {"a": list(range(20))}
    assert not list(tmp_path.glob(".mlflow.db.new-*"))


def test_a_half_migrated_database_is_recognised_and_points_stay(database, tmp_path, caplog):
    whole = database.read_bytes()
    half_migrate(database)
    uri = f"sqlite:///{database}"
    with pytest.raises(TrackingError, match=r"is half-migrated.*451aebb31d03.*mlflow db upgrade sqlite:///"):
        prepare_database(uri)
    before = database.read_bytes()
    tracker = MLflowTracker.open(tmp_path / "spool", experiment="e", run_name="kept", tracking_uri=uri)
    tracker.metrics({"loss": 0.5}, 3)
    assert not tracker.close("FINISHED", wait=3)
    assert "is half-migrated" in caplog.text
    assert database.read_bytes() == before  # nothing tries to mend it
    tracker._background._threads[1].join(60)
    tracker._spool.close()
    assert not (tmp_path / "spool" / "refused.jsonl").exists()
    database.write_bytes(whole)
    assert send_spool(tmp_path / "spool") == 3
    assert steps(database.parent) == {"kept": [3]}


@pytest.mark.parametrize("rows", [(), ("a", "b")])
def test_a_database_without_one_revision_is_half_migrated(rows, database):
    with sqlite3.connect(database) as opened:
        opened.execute("DELETE FROM alembic_version")
        opened.executemany("INSERT INTO alembic_version VALUES (?)", [(row,) for row in rows])
    with pytest.raises(TrackingError, match=r"is half-migrated.*revision none"):
        prepare_database(f"sqlite:///{database}")


def test_a_file_that_is_no_database_is_named(tmp_path):
    (tmp_path / "mlflow.db").write_bytes(b"not a database, but longer than its header would be" * 40)
    with pytest.raises(TrackingError, match=r"mlflow.db cannot be used as MLflow's database"):
        prepare_database(f"sqlite:///{tmp_path}/mlflow.db")


def test_a_whole_database_is_left_as_it_is(database):
    before = database.read_bytes()
    _whole.discard(database)
    prepare_database(f"sqlite:///{database}")
    assert database.read_bytes() == before
