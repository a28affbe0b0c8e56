"""Faults that are really there, on nodes of a simulated cluster: each is named, with what to do."""

import json
import os
import shutil
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from tests.launch.conftest import *  # noqa: F403  (the fixtures of tests that start Ray)
from tests.support.cluster_marks import on_a_cluster

pytestmark = on_a_cluster(timeout=600)
NAMESPACE = ("unshare", "--map-root-user", "--mount")
SECONDS = 20.0
"""Within which every fault is to be named; a busy machine may take three times that here."""
PLANT = """
set -eu
mount -t tmpfs -o size=200m none /dev/shm
mount -t tmpfs none {outputs}
mount -t tmpfs -o size=64m none {cache}
mount -t tmpfs none {other}
cp {data}/* {other}/
mount --bind {other} {data}
first=$(ls {data}/*.tar | head -n 1)
truncate -s -512 "$first"
ulimit -n 900
exec "$@"
"""
"""Runs a command with a small /dev/shm, a full disk, a store and a dataset of its own, few open files."""
SHIFTED = "import time\nhonest = time.time\ntime.time = lambda: honest() + 90.0\n"
"""A sitecustomize.py by which the clock of all Python on a node is ahead."""


def _examine(address: str, *flags: str) -> tuple[dict[str, Any], int, float]:
    """Return what `qdet doctor --json` prints, its exit code, and the seconds it took."""
    command = [sys.executable, "-m", "qdet", "doctor", "--json", "--ray-address", address, *flags]
    started = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    took = time.monotonic() - started
    assert "Traceback" not in done.stderr, done.stderr
    found = json.loads(done.stdout)
    Path("doctor.json").write_text(done.stdout)
    for one in found["findings"]:
        print(one["state"], one["check"], ",".join(one["where"]), one["found"], "->", one["do"])
    print(f"{took:.1f} s")
    return found, done.returncode, took


def _wrong(found: dict[str, Any]) -> list[dict[str, Any]]:
    return [finding for finding in found["findings"] if finding["state"] == "wrong"]


def _names(findings: list[dict[str, Any]], check: str, where: str | None, said: str) -> bool:
    """Whether a finding is of this check and machine, says so, and what to do."""
    return any(
        finding["check"] == check
        and (where is None or where in finding["where"])
        and said in finding["found"]
        and finding["do"]
        for finding in findings
    )


@pytest.fixture
def namespaces() -> None:
    """Skip where a process cannot have mounts of its own."""
    if shutil.which("unshare") is None or subprocess.run([*NAMESPACE, "true"], check=False).returncode:
        pytest.skip("this machine lets no process have mounts of its own")


def test_healthy_nodes_have_nothing_wrong_and_one_that_hangs_is_named(project: Path, nodes):
    nodes.add(3, 4)
    found, code, _ = _examine(nodes.address, "--data", "data/train", "--ports", "5055")
    assert (found["state"], code, _wrong(found)) == ("warning", 0, [])
    assert len(found["facts"]["machines"]) == 3
    links = [link for link in found["facts"]["links"] if link["speed"]]
    assert {(link["source"], link["target"]) for link in links} == {
        ("127.0.0.2", "127.0.0.3"),
        ("127.0.0.3", "127.0.0.4"),
        ("127.0.0.4", "127.0.0.2"),
    }
    assert not (project / "outputs").exists()  # the probe is gone, and the folder that was made for it
    nodes.pause(4)
    found, code, _ = _examine(nodes.address)
    assert code == 1
    assert _names(_wrong(found), "nodes", "127.0.0.4", "no answer within 10 s")
    assert len(found["facts"]["machines"]) == 2


def test_eleven_planted_faults_are_named(project: Path, namespaces, request, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    cluster = request.getfixturevalue("nodes")
    plant = project / "plant"
    package = plant / "deepspeed-0.1.0.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: deepspeed\nVersion: 0.1.0\n")
    (plant / "sitecustomize.py").write_text(SHIFTED)
    places = {
        "outputs": project / "outputs",
        "cache": project / "home/.cache/qdet",
        "other": project / "other",
    }
    for folder in places.values():
        folder.mkdir(parents=True)
    data = (project / "data/train").resolve()
    script = textwrap.dedent(PLANT).format(**places, data=data)
    cluster.add(3)
    cluster.add(
        4,
        flags=("--num-gpus=1",),
        wrapper=(*NAMESPACE, "bash", "-c", script, "plant"),
        environment={"PYTHONPATH": f"{plant}{os.pathsep}{os.environ['PYTHONPATH']}"},
    )
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with socket.create_server(("127.0.0.4", 0)) as taken:
        port = taken.getsockname()[1]
        found, code, took = _examine(cluster.address, "--data", "data/train", "--ports", str(port))
    assert code == 1
    wrong, sick = _wrong(found), "127.0.0.4"
    assert _names(wrong, "versions", sick, "deepspeed 0.1.0, elsewhere deepspeed 0")
    assert _names(wrong, "GPUs", sick, "Ray hands out 1, and none can be seen")
    assert _names(wrong, "store", sick, "does not see what the driver wrote")
    assert _names(wrong, "disk", sick, "free on the disk of")
    assert _names(wrong, "data", sick, ".tar is the first that differs")
    assert _names(wrong, "MLflow", sick, "http://127.0.0.1:9 does not answer: ")
    assert _names(wrong, "token", None, "Ray answers without a token")
    assert _names(wrong, "clocks", sick, "90.0 s ahead")
    assert _names(wrong, "ports", sick, f"something listens at port {port}")
    assert _names(wrong, "limits", sick, "at most 900 open files")
    assert _names(wrong, "shared memory", sick, "free in /dev/shm")
    healthy = [finding for finding in wrong if "127.0.0.3" in finding["where"]]
    assert {finding["check"] for finding in healthy} <= {"MLflow"}  # nothing else is wrong with the other
    assert took < 3 * SECONDS
