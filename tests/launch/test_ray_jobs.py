"""Jobs on a real Ray cluster on this machine: trained directly, submitted, and as a sweep."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from qdet.launching.ray_backend import head

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600), pytest.mark.usefixtures("only_cluster")]

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture
def local_head(project: Path) -> Iterator[head.Head]:
    """A head in the project folder."""
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


@pytest.fixture
def note_of_a_dead_cluster() -> Iterator[None]:
    """Ray's record of the last head here, left behind by a head that is gone."""
    head.CURRENT_CLUSTER.parent.mkdir(exist_ok=True)
    head.CURRENT_CLUSTER.write_text("127.0.0.1:9")
    yield
    head.CURRENT_CLUSTER.unlink(missing_ok=True)


@pytest.mark.slow
@pytest.mark.ci_slow
@pytest.mark.usefixtures("note_of_a_dead_cluster")
def test_job_trains_on_two_workers_of_a_ray_of_its_own(project: Path):
    done = _run(sys.executable, "jobs/tiny_job.py")
    assert done.returncode == 0
    assert "Traceback" not in done.stdout + done.stderr  # no part of Ray has tried that cluster
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
    assert "RayTrainWorker" not in done.stdout  # no prefixes
    assert re.search(r"^best checkpoint +outputs/tiny-\w+-\w+/step_00000[24] ", done.stdout, re.MULTILINE)
    assert (store / "predictions.png").read_bytes().startswith(b"\x89PNG")
    # Everything a run writes is where the job was started, not where Ray unpacked or ran it.
    assert (project / "mlflow.db").is_file()


@pytest.mark.slow
@pytest.mark.ci_slow
def test_job_submits_to_the_head_and_its_exit_code_comes_back(project: Path, local_head: head.Head):
    for name, value in local_head.environment.items():
        os.environ[name] = value  # the exports that `cluster/local.sh up` prints
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


@pytest.mark.slow
def test_checkpoints_live_in_a_bucket_and_a_run_resumes_from_there(project: Path, bucket: str):
    import boto3

    command = (
        sys.executable,
        "jobs/tiny_job.py",
        "--store.path",
        f"{bucket}/store",
        "--train.checkpoint-every",
        "2",
    )
    assert _run(*command).returncode == 0
    run = _result(project)["run"]
    stored = {item["Key"] for item in boto3.client("s3").list_objects_v2(Bucket="shelf")["Contents"]}
    assert {f"store/{run}/step_00000{step}/manifest.json" for step in (2, 4)} <= stored
    assert not list(project.glob("outputs/*"))
    done = _run(*command, "--store.resume", run, "--train.steps", "6")
    assert done.returncode == 0
    assert "resuming from step 4 of 6" in done.stdout
    assert _result(project)["run"] == run
    assert "no such run in --store.path s3://" in _run(*command, "--store.resume", "other").stderr


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
    assert {run.data.tags["mlflow.source.name"] for run in runs} == {"tiny_job.py"}


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
