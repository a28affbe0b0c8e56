"""The same job file without Ray: under torchrun, where it becomes one process of several."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_job_file_trains_under_torchrun_as_it_is(tmp_path: Path, demo_shards: Path):
    job = tmp_path / "tiny_job.py"
    shutil.copy(Path(__file__).with_name("tiny_job.py"), job)
    (tmp_path / "data").symlink_to(demo_shards)
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_", "QDET_"))
    }
    environment = kept | {
        "PYTHONPATH": str(REPO),
        "OMP_NUM_THREADS": "1",
        "QDET_RESULT": str(tmp_path / "result.json"),
    }
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*torchrun, job.name],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    print(done.stdout, done.stderr)
    assert done.returncode == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert {folder.name for folder in (tmp_path / "outputs" / result["run"]).glob("step_*")} == {
        "step_000002",
        "step_000004",
    }
    assert Path(result["picture"]).is_file()
    assert done.stdout.count("step 4/4") == 1  # rank 0 alone speaks
