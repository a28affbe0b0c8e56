"""Shell scripts and the image's Dockerfile: executable, and clean by shellcheck and hadolint."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.linters import linter

REPO = Path(__file__).resolve().parents[2]
CLUSTER = REPO / "cluster"
SCRIPTS = sorted([*CLUSTER.glob("*.sh"), *(REPO / "tests").glob("*.sh"), REPO / ".ci" / "run"])
HEADS = {
    "slurm.sh": r"port=.*\$\(\((\d+) \+ SLURM_JOB_ID % (\d+)\)\)",
    "skypilot.yaml": r"port=(\d+)",
    "aws-gpu.yaml": r"ray start --head --port=(\d+)",
    "gcp-gpu.yaml": r"ray start --head --port=(\d+)",
}
"""Where a cluster's file says at which port its head listens, and how many ports there are to choose from."""


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_executable_bash(script: Path):
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", script], check=True)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script: Path):
    done = subprocess.run([linter("shellcheck"), script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("name", ["Dockerfile", "mlflow/Dockerfile"])
def test_hadolint_finds_nothing(name: str):
    command = [linter("hadolint"), "--no-color", CLUSTER / name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_linters_of_make_check_see_every_script():
    (line,) = [line for line in (REPO / "Makefile").read_text().splitlines() if "shellcheck" in line]
    listed = {path for pattern in line.split()[1:] for path in REPO.glob(pattern)}
    assert listed == set(SCRIPTS)


def test_local_head_is_down_in_a_fresh_project(tmp_path: Path):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PYTHONPATH": str(REPO), "QDET_ROOT": str(tmp_path), "PATH": path}
    done = subprocess.run(
        [CLUSTER / "local.sh", "status"], capture_output=True, text=True, env=environment, check=False
    )
    assert (done.returncode, done.stderr.strip()) == (1, "down")


@pytest.mark.parametrize("file", HEADS)
def test_a_head_listens_where_ray_puts_no_worker(file: str):
    """Ray refuses to start where they overlap."""
    from ray.scripts.scripts import start

    first, last = (
        next(option.default for option in start.params if option.name == f"{end}_worker_port")
        for end in ("min", "max")
    )
    numbers = re.search(HEADS[file], (REPO / "cluster" / file).read_text())
    assert numbers is not None
    lowest, span = int(numbers[1]), int(numbers[2]) if numbers.re.groups > 1 else 1
    assert lowest + span <= first or lowest > last
    assert lowest + span <= 32768, "from there on Linux hands ports out by itself"
