"""Jobs on a real Ray cluster of this machine: trained directly, submitted, killed and searched.

Ray serves one cluster per machine well, so these tests hold a lock while they have one.
"""

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from qdet.launch import head, report

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True, scope="module")
def _only_cluster() -> Iterator[None]:
    with (Path(tempfile.gettempdir()) / "qdet-ray.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture
def project(tmp_path: Path, demo_shards: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder with a tiny job and its shards; the current one."""
    job = tmp_path / "jobs" / "tiny_job.py"
    job.parent.mkdir()
    shutil.copy(Path(__file__).with_name("tiny_job.py"), job)
    job.chmod(0o755)
    (tmp_path / "data").symlink_to(demo_shards)
    for name in [*os.environ]:
        if name.startswith(("RAY_", "QDET_", "MLFLOW_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PYTHONPATH", str(REPO))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv(report.RESULT, str(tmp_path / "result.json"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def local_head(project: Path) -> Iterator[head.Head]:
    """A head of the project's own."""
    try:
        yield head.up(ports=dict.fromkeys(head.PORTS), cpus=2)
    finally:
        head.down()


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=400)
    print(done.stdout, done.stderr, sep="\n")
    return done


def _mlflow_run(project: Path, run_id: str):
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=f"sqlite:///{project}/mlflow.db").get_run(run_id)


def _result(project: Path) -> dict:
    return json.loads((project / "result.json").read_text())


def test_job_trains_on_two_workers_of_a_ray_of_its_own(project: Path):
    done = _run(sys.executable, "jobs/tiny_job.py")
    assert done.returncode == 0
    assert re.search(r"step 4/4  loss [\d.]+", done.stdout)
    result = _result(project)
    store = project / "outputs" / result["run"]
    assert {folder.name for folder in store.glob("step_*")} == {"step_000002", "step_000004"}
    run = _mlflow_run(project, result["mlflow_run_id"])
    assert run.info.status == "FINISHED"
    assert run.info.run_name == result["run"]
    assert run.data.params["train.workers"] == "2"
    assert run.data.metrics["val/AP"] == pytest.approx(result["metrics"]["val/AP"])
    assert result["run"] in done.stdout
    assert f"mlflow ui --backend-store-uri sqlite:///{project}/mlflow.db" in done.stdout
    # All of a run lies where the job was started, not where Ray unpacked or ran it.
    assert (project / "mlflow.db").is_file()


def test_job_submits_to_the_head_and_its_exit_code_comes_back(project: Path, local_head: head.Head):
    for name, value in local_head.environment.items():
        os.environ[name] = value  # what `cluster/local.sh up` tells to export
    done = _run(
        "ray", "job", "submit", "--working-dir", ".", "--", "python", "jobs/tiny_job.py", "--train.steps", "2"
    )
    assert done.returncode == 0
    assert re.search(r"step 2/2  loss [\d.]+", done.stdout)
    assert len(list((project / "outputs").glob("tiny-*/step_000002"))) == 1

    typo = _run("ray", "job", "submit", "jobs/tiny_job.py", "--", "--train.epoch", "3")
    assert typo.returncode != 0
    assert "--train.epochs INT" in typo.stdout

    too_big = ("jobs/tiny_job.py", "--train.workers", "4", "--ray-wait", "2")
    done = _run(sys.executable, *too_big)
    assert done.returncode == 1
    said = "--train.workers 4 of 1 CPU each, but the cluster has room for 2"
    assert said in done.stderr.strip().splitlines()[-1]


@pytest.mark.slow
def test_literal_submission_and_ours_do_the_same(project: Path, local_head: head.Head):
    for name, value in local_head.environment.items():
        os.environ[name] = value
    assert _run("ray", "job", "submit", "jobs/tiny_job.py").returncode == 0
    ours = (sys.executable, "-m", "qdet", "submit", "jobs/tiny_job.py", "--")
    assert _run(*ours, "--train.steps", "2").returncode == 0
    assert _run(*ours, "--train.batch-size", "9").returncode == 2
    assert len(list((project / "outputs").iterdir())) == 2


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """URL of an empty bucket on an S3 server of this machine, which the environment names."""
    boto3, servers = pytest.importorskip("boto3"), pytest.importorskip("moto.server")
    server = servers.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "of",
        "AWS_SECRET_ACCESS_KEY": "nobody",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    boto3.client("s3").create_bucket(Bucket="runs")
    try:
        yield "s3://runs/store"
    finally:
        server.stop()


@pytest.mark.slow
def test_checkpoints_live_in_a_bucket_and_a_run_goes_on_from_there(project: Path, bucket: str):
    import boto3

    command = (sys.executable, "jobs/tiny_job.py", "--store.path", bucket, "--train.checkpoint-every", "2")
    assert _run(*command).returncode == 0
    run = _result(project)["run"]
    stored = {item["Key"] for item in boto3.client("s3").list_objects_v2(Bucket="runs")["Contents"]}
    assert {f"store/{run}/step_00000{step}/manifest.json" for step in (2, 4)} <= stored
    assert not list(project.glob("outputs/*"))
    done = _run(*command, "--store.resume", run, "--train.steps", "6")
    assert done.returncode == 0
    assert "going on after step 4 of 6" in done.stdout
    assert _result(project)["run"] == run
    assert "no such run in --store.path s3://" in _run(*command, "--store.resume", "other").stderr


@pytest.mark.slow
def test_run_whose_worker_is_killed_goes_on_from_its_checkpoint(project: Path):
    flags = ("--train.steps", "80", "--train.checkpoint-every", "20", "--train.log-every", "1")
    process = subprocess.Popen(
        [sys.executable, "jobs/tiny_job.py", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    output, victim = [], None
    for line in process.stdout:
        output.append(line)
        found = re.search(r"pid=(\d+)\) step (\d+)/80", line)
        if found and int(found[2]) >= 38 and victim is None:  # Ray takes note of a checkpoint within a second
            victim = int(found[1])
            os.kill(victim, signal.SIGKILL)
    text = "".join(output)
    print(text)
    assert process.wait(timeout=60) == 0
    assert victim is not None
    assert re.search(r"going on after step (20|40) of 80", text)
    result = _result(project)
    run = _mlflow_run(project, result["mlflow_run_id"])
    assert (run.info.status, result["step"]) == ("FINISHED", 80)
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{project}/mlflow.db")
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert {point.step for point in history} == set(range(1, 81))
    assert len(client.search_runs([run.info.experiment_id])) == 1


@pytest.mark.slow
def test_failure_is_the_last_line_and_the_status_of_the_run(project: Path):
    done = _run(sys.executable, "jobs/tiny_job.py", "--optim.lr", "1e30")
    assert done.returncode == 1
    assert re.match(r"\w+Error: .*--optim.lr", done.stderr.strip().splitlines()[-1])
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{project}/mlflow.db")
    (run,) = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert run.info.status == "FAILED"
    assert "--optim.lr" in run.data.tags["qdet.cause"]


@pytest.mark.slow
def test_terminated_run_is_killed_in_mlflow_and_can_be_resumed(project: Path):
    flags = ("--train.steps", "40", "--train.checkpoint-every", "4", "--train.log-every", "1")
    command = [sys.executable, "jobs/tiny_job.py", *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    for line in process.stdout:
        print(line, end="")
        if re.search(r"step 15/40", line):  # Ray notes a checkpoint within a second
            process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 128 + signal.SIGTERM
    (store,) = (project / "outputs").iterdir()
    run_id = json.loads((store / "run.json").read_text())["mlflow_run_id"]
    assert _mlflow_run(project, run_id).info.status == "KILLED"

    unknown = _run(*command, "--store.resume", store.name + "x")
    assert unknown.returncode == 2
    assert f"Did you mean {store.name}?" in unknown.stderr
    resumed = _run(*command, "--store.resume", store.name)
    assert resumed.returncode == 0
    assert re.search(r"going on after step \d+ of 40", resumed.stdout)
    assert _result(project)["mlflow_run_id"] == run_id
    assert _mlflow_run(project, run_id).info.status == "FINISHED"


@pytest.mark.slow
def test_sweep_of_three_trials_outlives_one_that_fails(project: Path):
    flags = ("--sweep", "--sweep.trials", "3", "--train.steps", "12")
    done = _run(sys.executable, "jobs/tiny_job.py", *flags)
    assert done.returncode == 0
    rows = re.findall(
        r"^(\w+) +(0\.\d{4}|-) +(\d+|-) +(finished|stopped early|failed)", done.stdout, re.MULTILINE
    )
    assert len(rows) == 3
    assert {"failed"} < {row[3] for row in rows}
    assert rows[-1][3] == "failed"
    assert re.search(r"^best setting: --optim.lr [\d.e-]+$", done.stdout, re.MULTILINE)

    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{project}/mlflow.db")
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    trials = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert parent.info.status == "FINISHED"
    assert sorted(run.info.status for run in trials) == ["FAILED", "FINISHED", "FINISHED"]
    assert len({run.data.params["optim.lr"] for run in trials}) > 1


@pytest.mark.slow
def test_slurm_script_trains_on_an_allocation_of_one_node(project: Path, monkeypatch: pytest.MonkeyPatch):
    stubs = {
        "srun": 'while [[ "$1" == --* ]]; do shift; done; exec "$@"',
        "scontrol": "echo localhost",
        "hostname": "echo 127.0.0.1",
    }
    folder = project / "bin"
    folder.mkdir()
    for name, body in stubs.items():
        (folder / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    for name, value in head.LOCAL_SETTINGS.items():
        monkeypatch.setenv(name, value)
    for name, value in {"JOB_ID": "7", "JOB_NODELIST": "localhost", "CPUS_ON_NODE": "2"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    done = _run(str(REPO / "cluster" / "slurm.sh"), "jobs/tiny_job.py", "--train.steps", "2")
    assert done.returncode == 0
    assert _mlflow_run(project, _result(project)["mlflow_run_id"]).info.status == "FINISHED"
    assert not list((project / ".qdet").glob("*.token"))
