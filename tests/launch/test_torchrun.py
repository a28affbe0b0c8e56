"""A job file without Ray: under torchrun as several ranks, and `--local` as one process."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture
def project(tmp_path: Path, demo_shards: Path) -> Path:
    """A folder with the tiny job and its shards."""
    shutil.copy(REPO / "tests" / "support" / "tiny_job.py", tmp_path / "tiny_job.py")
    (tmp_path / "data").symlink_to(demo_shards)
    return tmp_path


@pytest.fixture
def environment(project: Path) -> dict[str, str]:
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_", "QDET_"))
    }
    return kept | {
        "PYTHONPATH": str(REPO),
        "OMP_NUM_THREADS": "1",
        "QDET_RESULT": str(project / "result.json"),
    }


@pytest.mark.slow
def test_job_file_trains_under_torchrun_as_it_is(project: Path, environment: dict[str, str]):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*torchrun, "tiny_job.py"],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    print(done.stdout, done.stderr)
    assert done.returncode == 0
    result = json.loads((project / "result.json").read_text())
    assert {folder.name for folder in (project / "outputs" / result["run"]).glob("step_*")} == {
        "step_000002",
        "step_000004",
    }
    assert Path(result["picture"]).is_file()
    assert done.stdout.count("step 4/4") == 1  # only rank 0 prints


@pytest.mark.slow
def test_sigterm_saves_a_checkpoint_and_torchrun_resumes_from_that_step(
    project: Path, environment: dict[str, str]
):
    from mlflow import MlflowClient

    flags = ["--train.steps", "60", "--train.log-every", "1", "--train.checkpoint-every", "1000"]
    command = [sys.executable, "tiny_job.py", "--local", "--store.run", "night", *flags]
    process = subprocess.Popen(
        command, cwd=project, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    said = []
    for line in process.stdout or ():
        said.append(line)
        if line.startswith("step 5/60"):
            process.send_signal(signal.SIGTERM)
    print("".join(said))
    assert process.wait(timeout=60) == 128 + signal.SIGTERM
    found = re.search(r"stopped after step (\d+) of 60", "".join(said))
    assert found is not None
    stopped = int(found[1])
    assert stopped < 60
    assert [folder.name for folder in (project / "outputs" / "night").glob("step_*")] == [
        f"step_{stopped:06d}"
    ]
    client = MlflowClient(tracking_uri=f"sqlite:///{project}/mlflow.db")
    record = json.loads((project / "outputs" / "night" / "run.json").read_text())
    assert client.get_run(record["mlflow_run_id"]).info.status == "KILLED"

    again = subprocess.run(
        [*command, "--store.resume", "auto"],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    print(again.stdout, again.stderr)
    assert again.returncode == 0
    assert f"resuming from step {stopped} of 60" in again.stdout
    assert client.get_run(record["mlflow_run_id"]).info.status == "FINISHED"
    points = client.get_metric_history(record["mlflow_run_id"], "train/loss")
    assert sorted(point.step for point in points) == list(range(1, 61))
