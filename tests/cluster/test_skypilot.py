"""The SkyPilot task: its fields by SkyPilot's documentation, its scripts by shellcheck, its flags by qdet."""

import re
import runpy
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from qdet.launching import cli
from tests.support.linters import linter

REPO = Path(__file__).resolve().parents[2]
FIELDS = {"name", "workdir", "num_nodes", "resources", "envs", "secrets", "file_mounts", "setup", "run"}
RESOURCES = {
    "infra",
    "accelerators",
    "cpus",
    "memory",
    "use_spot",
    "disk_size",
    "disk_tier",
    "network_tier",
    "image_id",
}
MODES = {"MOUNT", "COPY", "MOUNT_CACHED"}
GIVEN = {"SKYPILOT_NODE_IPS", "SKYPILOT_NODE_RANK", "SKYPILOT_NUM_NODES", "SKYPILOT_NUM_GPUS_PER_NODE"}
"""What SkyPilot sets on every node."""


@pytest.fixture
def task() -> dict[str, Any]:
    return yaml.safe_load((REPO / "cluster" / "skypilot.yaml").read_text())


def test_every_field_is_one_of_skypilot_s(task: dict[str, Any]):
    assert task.keys() <= FIELDS
    assert task["resources"].keys() <= RESOURCES
    (mount,) = task["file_mounts"].values()
    assert mount.keys() <= {"name", "source", "store", "mode", "persistent"}
    assert mount["mode"] in MODES
    assert all(value is None or isinstance(value, str) for value in task["envs"].values())


def test_scripts_use_variables_that_are_set(task: dict[str, Any]):
    names = set(re.findall(r"\$\{?([A-Z][A-Z_]+)", task["setup"] + task["run"]))
    assert {name for name in names if name.startswith("SKYPILOT")} <= GIVEN
    assert names - GIVEN <= task["envs"].keys() | task["secrets"].keys()


@pytest.mark.parametrize("part", ["setup", "run"])
def test_scripts_are_clean_bash(task: dict[str, Any], part: str):
    command = [linter("shellcheck"), "--shell=bash", "--exclude=SC1090,SC1091", "-"]
    done = subprocess.run(command, input=task[part], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_task_starts_a_job_that_takes_its_flags(task: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    (line,) = [one for one in task["run"].replace("\\\n", " ").splitlines() if one.startswith("python ")]
    line = re.sub(r"\$\(\(.*?\)\)", "16", line)
    values = task["envs"] | {"head": "10.0.0.1", "port": "26379"}
    python, job, *flags = shlex.split(re.sub(r"\$(\w+)", lambda found: values[found[1]], line))
    assert (python, (REPO / job).is_file()) == ("python", True)
    caught: list = []
    monkeypatch.setattr(cli, "_run", lambda command, callbacks: caught.append(command))
    cli.launch(runpy.run_path(str(REPO / job))["job"], args=flags)
    assert caught[0].job.train.workers == 16
    assert (caught[0].job.store.run, caught[0].job.store.resume) == (task["envs"]["RUN"], "auto")
