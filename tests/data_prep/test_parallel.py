"""Tasks in one process, in several, and on a Ray cluster: each runs once, errors are the tasks' own."""

import fcntl
import os
import secrets
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from data_prep.packing import parallel
from data_prep.packing.parallel import run_tasks
from qdet.errors import ClusterError, ConfigError, DataError
from tests.support.square_task import square

REPO = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("processes", [1, 2])
def test_every_task_runs_once(tmp_path, processes):
    tasks = [(str(tmp_path), n) for n in range(10)]
    assert sorted(run_tasks(square, tasks, processes=processes)) == [(n, n * n) for n in range(10)]
    assert sorted(int(p.name.partition("-")[0]) for p in tmp_path.iterdir()) == list(range(10))
    others = {p.name.partition("-")[2] for p in tmp_path.iterdir()} - {str(os.getpid())}
    assert len(others) == (0 if processes == 1 else len(others)) <= processes


@pytest.mark.parametrize("processes", [1, 2])
def test_the_first_error_of_a_task_is_raised_as_it_was(tmp_path, processes):
    tasks = [(str(tmp_path), n) for n in (13, *range(100, 300))]
    with pytest.raises(DataError, match=r"^unlucky$"):
        list(run_tasks(square, tasks, processes=processes))
    assert len(list(tmp_path.iterdir())) < len(tasks)  # waiting tasks were cancelled


def test_a_killed_process_is_reported(tmp_path):
    with pytest.raises(DataError, match=r"a process that wrote shards was killed.*fewer --processes"):
        list(run_tasks(square, [(str(tmp_path), 14), (str(tmp_path), 1)], processes=2))


def test_no_tasks_start_no_process():
    assert list(run_tasks(square, [], processes=4, ray=True)) == []


@pytest.mark.parametrize(
    ("address", "error", "message"),
    [
        ("http://127.0.0.1:8265", ConfigError, "submit this command as a job"),
        ("127.0.0.1:9", ClusterError, "no Ray cluster answers at 127.0.0.1:9"),
        ("nonsense", ClusterError, "no Ray cluster answers at nonsense"),
        ("", ConfigError, "name the cluster with RAY_ADDRESS=host:port"),
        ("auto", ConfigError, "name the cluster with RAY_ADDRESS=host:port"),
    ],
)
def test_unreachable_clusters_are_named(monkeypatch, address, error, message):
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(error, match=message):
        parallel._connect()


ON_RAY = """
import json, os, subprocess, sys
from pathlib import Path
import ray
from data_prep.coco_to_shards import Conversion, convert
from data_prep.packing.parallel import run_tasks
from qdet.errors import DataError
from tests.support.square_task import square

coco, folder = Path(sys.argv[1]), Path(sys.argv[2])
context = ray.init(address="local", num_cpus=2, _node_ip_address="127.0.0.1", include_dashboard=False,
                   object_store_memory=100 * 2**20, log_to_driver=False)
command = [sys.executable, "-m", "data_prep.coco_to_shards", "--coco", str(coco), "--split", "train"]
command += ["--out", str(folder / "command"), "--shard-megabytes", "0.01"]
address = {"RAY_ADDRESS": context.address_info["address"]}
subprocess.run(command, env=os.environ | address, check=True)  # connects without --ray
convert(Conversion(coco=coco, split="train", shard_megabytes=0.01, out=folder / "ray", ray=True))
message = ""
tasks = [(str(folder / "seen"), n) for n in (1, 13)]
(folder / "seen").mkdir()
try:
    list(run_tasks(square, tasks, processes=1, ray=True))
except DataError as error:
    message = f"{type(error).__name__}: {error}"
pids = {p.name.partition("-")[2] for p in (folder / "seen").iterdir()}
still = ray.is_initialized()
ray.shutdown()
print("RESULT", json.dumps([message, str(os.getpid()) in pids, still]))
"""


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(300)
def test_a_cluster_writes_the_same_bytes(make_coco, tmp_path):
    import json

    from data_prep.coco_to_shards import Conversion, convert

    root, _ = make_coco(20)
    convert(Conversion(coco=root, split="train", out=tmp_path / "here", shard_megabytes=0.01, processes=1))
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment = kept | {
        "PYTHONPATH": str(REPO),
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),  # else Ray writes one into the home folder
    }
    with (Path(tempfile.gettempdir()) / "qdet-ray.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run(
            [sys.executable, "-c", ON_RAY, str(root), str(tmp_path)],
            capture_output=True,
            text=True,
            env=environment,
            timeout=240,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    (result,) = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
    assert json.loads(result.removeprefix("RESULT")) == ["DataError: unlucky", False, True]
    here = {p.name: p.read_bytes() for p in (tmp_path / "here").iterdir()}
    for folder in ("ray", "command"):
        assert {p.name: p.read_bytes() for p in (tmp_path / folder).iterdir()} == here
