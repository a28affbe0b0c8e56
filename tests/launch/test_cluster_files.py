"""The files of cluster/ are valid for Ray, Kubernetes and bash, and start existing jobs."""

import importlib.util
import json
import os
import runpy
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import jsonschema
import pytest
import yaml
from packaging.requirements import Requirement

from qdet.launching import cli

REPO = Path(__file__).resolve().parents[2]
CLUSTER = REPO / "cluster"


@pytest.fixture
def rayjob() -> dict:
    return yaml.safe_load((CLUSTER / "kuberay-rayjob.yaml").read_text())


def test_aws_file_fits_ray_s_schema():
    found = importlib.util.find_spec("ray")
    assert found is not None
    assert found.origin is not None
    schema = json.loads((Path(found.origin).parent / "autoscaler" / "ray-schema.json").read_text())
    config = yaml.safe_load((CLUSTER / "aws-gpu.yaml").read_text())
    jsonschema.validate(config, schema)
    assert config["head_node_type"] in config["available_node_types"]
    for command in (config["head_start_ray_commands"][-1], config["worker_start_ray_commands"][-1]):
        assert "RAY_AUTH_MODE=token" in command
        assert command.startswith("cd ~/qdet")  # where Ray looks for the entry points of jobs


def test_rayjob_is_guarded_and_of_our_ray(rayjob: dict):
    cluster = rayjob["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    dependencies = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]["dependencies"]
    (ray,) = [one for one in dependencies if one.startswith("ray[")]
    assert Requirement(ray).specifier.contains(cluster["rayVersion"])


def test_rayjob_s_containers_agree(rayjob: dict):
    groups = [
        rayjob["spec"]["rayClusterSpec"]["headGroupSpec"],
        *rayjob["spec"]["rayClusterSpec"]["workerGroupSpecs"],
    ]
    pods = [group["template"]["spec"] for group in groups]
    containers = [container for pod in pods for container in pod["containers"]]
    assert len({container["image"] for container in containers}) == 1
    assert all(container["env"] == containers[0]["env"] for container in containers)
    for pod in pods:
        volumes = {volume["name"] for volume in pod["volumes"]}
        assert {mount["name"] for mount in pod["containers"][0]["volumeMounts"]} <= volumes


def test_rayjob_starts_a_job_that_takes_its_flags(rayjob: dict, monkeypatch: pytest.MonkeyPatch):
    python, job, *flags = shlex.split(rayjob["spec"]["entrypoint"])
    assert python == "python"
    assert (REPO / job).is_file()
    caught: list = []
    monkeypatch.setattr(cli, "_run", lambda command, callbacks: caught.append(command))
    cli.launch(runpy.run_path(str(REPO / job))["job"], args=flags)
    gpus = rayjob["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0][
        "resources"
    ]
    assert caught[0].job.train.workers == gpus["limits"]["nvidia.com/gpu"]


@pytest.mark.parametrize("script", sorted(CLUSTER.glob("*.sh")), ids=lambda path: path.name)
def test_scripts_are_executable_bash(script: Path):
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", script], check=True)


def test_local_head_is_down_in_a_fresh_project(tmp_path: Path):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PYTHONPATH": str(REPO), "QDET_ROOT": str(tmp_path), "PATH": path}
    done = subprocess.run(
        [CLUSTER / "local.sh", "status"], capture_output=True, text=True, env=environment, check=False
    )
    assert (done.returncode, done.stderr.strip()) == (1, "down")
