"""No secret given to a run, recognized by name or by shape, appears in anything it writes or prints."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

NAMED = {
    "AWS_SECRET_ACCESS_KEY": "canary1/of/the/bucket",
    "STORE_API_KEY": "canary2-of-the-store",
    "DATABASE_PASSWORD": "canary3-of-the-database",
    "MLFLOW_TRACKING_TOKEN": "canary4-of-the-server",
}
"""Environment variables whose names mark them as secret."""
SHAPED = (
    "hf_canaryCANARYcanaryCANARY12345",
    "ghp_canaryCANARYcanaryCANARY1234567890ab",
    "AKIACANARYCANARY1234",
    "eyJjYW5hcnkiOiJ5ZXMi.eyJjYW5hcnkiOiJ5ZXMi.c2lnbmF0dXJlLW9mLWNhbmFyeQ",
)
"""Tokens recognized by their form, under any name."""
IN_URLS = ("canary5pw", "canary6signature")
URL = f"http://me:{IN_URLS[0]}@127.0.0.1:9/shards?X-Amz-Signature={IN_URLS[1]}"
SCRIPT_NOTE = "\n# " + " ".join((*SHAPED, *NAMED.values())) + "\n"


LATE = f"""
import socket, threading

real = socket.gethostname

def gethostname():
    if threading.current_thread().name.startswith("TrainingThread"):
        open("{URL}")
    return real()

socket.gethostname = gethostname
"""
"""A `sitecustomize.py` that makes a library call fail in a Ray worker with a secret in its message."""


def train(project: Path, *flags: str, fails: bool = False, where: str = "--local") -> None:
    """Train in one process, or on Ray, with secrets in every input, and assert that no output has them."""
    script = project / "jobs" / "tiny_job.py"
    script.write_text(script.read_text() + SCRIPT_NOTE)
    environment = os.environ | NAMED | {"QDET_RESULT": str(project / "result.json")}
    command = [sys.executable, str(script), where, "--train.steps", "2", *flags]
    done = subprocess.run(
        command, env=environment, cwd=project, capture_output=True, text=True, check=False, timeout=800
    )
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    (project / "said.txt").write_text(done.stdout + done.stderr)
    assert done.stdout + done.stderr
    found = [(file, secret) for file in written(project) for secret in secrets() if secret in read(file)]
    assert found == []


def secrets() -> list[str]:
    return [*NAMED.values(), *SHAPED, *IN_URLS]


def written(project: Path) -> list[Path]:
    """Return every file of the project but the user's own, the job and its images."""
    given = (project / "jobs", project / "data")
    return [
        file
        for file in project.rglob("*")
        if file.is_file() and not any(file.is_relative_to(folder) for folder in given)
    ]


def read(file: Path) -> str:
    return file.read_bytes().decode("latin-1")


@pytest.mark.slow
@pytest.mark.ci_slow
def test_a_finished_run_leaks_no_secret(project: Path):
    train(project, "--data.cache", f"cache-{SHAPED[0]}")
    written_kinds = {file.suffix for file in written(project)}
    assert {".db", ".safetensors", ".json", ".jsonl", ".py"} <= written_kinds
    (kept,) = project.glob("mlruns/**/job/tiny_job.py")
    assert kept.read_text().count("***") == len(SHAPED) + len(NAMED)


@pytest.mark.slow
def test_a_run_without_its_tracking_server_leaks_no_secret(project: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", URL.partition("/shards")[0])
    train(project)
    assert list(project.glob(".qdet/tracking/**/points.jsonl"))


@pytest.mark.parametrize(
    "flags",
    [
        ("--data.train", URL),
        ("--store.path", f"ftp://me:{IN_URLS[0]}@127.0.0.1:9/store"),
        pytest.param(("--optim.lr", "1e30"), marks=pytest.mark.slow),
        ("--train.batch-size", SHAPED[1]),
    ],
    ids=["shards", "store", "diverges", "flag"],
)
def test_a_failed_run_leaks_no_secret(project: Path, flags: tuple[str, ...]):
    train(project, *flags, fails=True)


def test_an_unexpected_error_leaks_no_secret(project: Path):
    script = project / "jobs" / "tiny_job.py"
    failing = f"""
    from qdet.launching.exit_status import exit_on_user_error
    exit_on_user_error(lambda: open("{URL}"))
"""
    script.write_text(script.read_text().replace("    launch(job, sweep=sweep)\n", failing))
    train(project, fails=True)
    assert "http://me:***@127.0.0.1:9/shards" in (project / "said.txt").read_text()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("only_cluster")
def test_a_library_that_quotes_a_secret_in_a_ray_worker_leaks_none(
    project: Path, monkeypatch: pytest.MonkeyPatch
):
    late = project / "jobs" / "sitecustomize.py"
    late.write_text(LATE)
    monkeypatch.setenv("PYTHONPATH", f"{late.parent}{os.pathsep}{os.environ['PYTHONPATH']}")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", URL.partition("/shards")[0])
    train(project, "--train.max-failures", "0", fails=True, where="--ray-address=local")
    said = (project / "said.txt").read_text()
    assert "FileNotFoundError: [Errno 2]" in said.strip().splitlines()[-1]
    assert "http://me:***@127.0.0.1:9/shards" in said
    logs = [file for file in Path("/tmp/ray/session_latest/logs").rglob("*") if file.is_file()]
    assert any("FileNotFoundError" in read(file) for file in logs)
    assert [(file, secret) for file in logs for secret in secrets() if secret in read(file)] == []
