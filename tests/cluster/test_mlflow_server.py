"""MLflow's server as compose.yaml starts it, on a real PostgreSQL and a simulated S3."""

import os
import pwd
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml

FOLDER = Path(__file__).resolve().parents[2] / "cluster" / "mlflow"
COMPOSE = yaml.safe_load((FOLDER / "compose.yaml").read_text())
POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
PASSWORD = "of-nobody"


def read_env(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines() if line and not line.startswith("#"))


EXAMPLE = read_env((FOLDER / "mlflow.env.example").read_text())


def test_the_example_names_every_variable_that_compose_asks_for():
    asked = re.findall(r"\$\{(\w+)(:\?)?", (FOLDER / "compose.yaml").read_text())
    assert {name for name, required in asked if required} <= EXAMPLE.keys()
    assert EXAMPLE.keys() <= {name for name, _ in asked}


def test_the_server_listens_on_loopback_alone():
    assert COMPOSE["services"]["mlflow"]["ports"] == ["127.0.0.1:5000:5000"]
    assert "ports" not in COMPOSE["services"]["postgres"]
    assert "--host 127.0.0.1" in (FOLDER / "mlflow.service").read_text()


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
def test_systemd_takes_the_units(tmp_path: Path):
    units = []
    for unit in FOLDER.glob("mlflow*.[st]*"):
        text = unit.read_text().replace("/opt/qdet/.venv/bin/mlflow", shutil.which("true") or "/bin/true")
        units.append(tmp_path / unit.name)
        units[-1].write_text(text)
    assert len(units) == 3
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture
def postgres(tmp_path: Path) -> Iterator[str]:
    """A PostgreSQL on loopback with the database and user of compose.yaml: its host:port."""
    pytest.importorskip("psycopg2", reason="MLflow's driver for PostgreSQL: pip install .[dev]")
    if not POSTGRES:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    given = COMPOSE["services"]["postgres"]["environment"]
    user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name  # it refuses root
    # The folders above pytest's are closed to other users.
    folder = Path(subprocess.check_output(["mktemp", "-d", "/tmp/qdet-postgres-XXXXXX"], text=True).strip())
    shutil.chown(folder, user)
    (folder / "password").write_text(PASSWORD)
    shutil.chown(folder / "password", user)
    port, binaries = free_port(), POSTGRES[-1]

    def run(*command: str | Path) -> None:
        subprocess.run(command, user=user, cwd=folder, check=True, stdout=subprocess.DEVNULL)

    data, flags = folder / "data", f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    name = given["POSTGRES_USER"]
    try:
        run(
            binaries / "initdb", "-D", data, "-U", name, "--auth=scram-sha-256", f"--pwfile={folder}/password"
        )
        run(binaries / "pg_ctl", "-D", data, "-l", folder / "log", "-w", "-o", flags, "start")
        psql("create database " + given["POSTGRES_DB"], f"127.0.0.1:{port}", database="postgres")
        yield f"127.0.0.1:{port}"
    finally:
        subprocess.run([binaries / "pg_ctl", "-D", data, "-m", "immediate", "stop"], user=user, check=False)
        shutil.rmtree(folder)


def psql(statement: str, place: str, *, database: str = "mlflow") -> str:
    address = f"postgresql://mlflow:{PASSWORD}@{place}/{database}"
    return subprocess.check_output(
        [POSTGRES[-1] / "psql", "-At", address, "-c", statement], text=True
    ).strip()


def environment_of_compose(given: dict[str, str], place: str) -> dict[str, str]:
    """Return the server's environment with an env file's values put in, and PostgreSQL at `place`."""

    def value(found: re.Match[str]) -> str:
        name, default = found[1], found[2] or ""
        return given.get(name) or (default[2:] if default.startswith(":-") else "")

    raw: dict[str, Any] = COMPOSE["services"]["mlflow"]["environment"]
    filled = {name: re.sub(r"\$\{(\w+)(:[-?][^}]*)?\}", value, text) for name, text in raw.items()}
    filled["MLFLOW_BACKEND_STORE_URI"] = filled["MLFLOW_BACKEND_STORE_URI"].replace("postgres:5432", place)
    return filled


@pytest.fixture
def server(postgres: str, bucket: str, tmp_path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """The server of compose.yaml: its address and environment."""
    port = free_port()
    given = EXAMPLE | {
        "POSTGRES_PASSWORD": PASSWORD,
        "MLFLOW_ARTIFACTS_DESTINATION": f"{bucket}/mlflow",
        "MLFLOW_SERVER_ALLOWED_HOSTS": f"localhost,127.0.0.1:{port}",
        "MLFLOW_S3_ENDPOINT_URL": os.environ["AWS_ENDPOINT_URL"],
        "AWS_ACCESS_KEY_ID": "of",
        "AWS_SECRET_ACCESS_KEY": "nobody",
    }
    environment = os.environ | environment_of_compose(given, postgres)
    program, *flags = COMPOSE["services"]["mlflow"]["command"]
    for flag, instead in (("--host", "127.0.0.1"), ("--port", str(port)), ("--workers", "1")):
        flags[flags.index(flag) + 1] = instead
    command = [sys.executable, "-m", program, *flags]
    with (tmp_path / "server.log").open("w") as log:
        process = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, cwd=tmp_path, start_new_session=True
        )
        try:
            wait_until_healthy(process, f"http://127.0.0.1:{port}", tmp_path / "server.log")
            yield f"http://127.0.0.1:{port}", environment
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
            process.wait(60)


def wait_until_healthy(process: "subprocess.Popen[bytes]", address: str, log: Path) -> None:
    """Ask as compose.yaml's health check does."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            assert urllib.request.urlopen(f"{address}/health", timeout=5).status == 200
        except OSError:
            time.sleep(0.5)
        else:
            return
    raise AssertionError(log.read_text())


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_runs_are_kept_in_postgresql_and_files_in_s3(
    server: tuple[str, dict[str, str]], postgres: str, tmp_path: Path
):
    from mlflow import MlflowClient

    address, environment = server
    client = MlflowClient(tracking_uri=address)
    run = client.create_run(client.create_experiment("qdet")).info.run_id
    client.log_metric(run, "val/AP", 0.432, step=7)
    (tmp_path / "note.txt").write_text("a picture")
    client.log_artifact(run, str(tmp_path / "note.txt"))
    assert (
        psql(f"select key, value, step from metrics where run_uuid = '{run}'", postgres) == "val/AP|0.432|7"
    )
    keys = [one["Key"] for one in boto3.client("s3").list_objects_v2(Bucket="shelf")["Contents"]]
    assert [key for key in keys if key.startswith("mlflow/") and key.endswith(f"{run}/artifacts/note.txt")]
    client.delete_run(run)
    collect_garbage(environment, address)
    assert psql(f"select count(*) from runs where run_uuid = '{run}'", postgres) == "0"
    assert boto3.client("s3").list_objects_v2(Bucket="shelf")["KeyCount"] == 0


def collect_garbage(environment: dict[str, str], address: str) -> None:
    """Run the command of mlflow-gc.service on what was deleted just now."""
    (line,) = re.findall(r"^ExecStart=(.*)$", (FOLDER / "mlflow-gc.service").read_text(), flags=re.MULTILINE)
    words = shlex.split(line)
    for flag, instead in (
        ("--older-than", "0d0h0m0s"),
        ("--backend-store-uri", environment["MLFLOW_BACKEND_STORE_URI"]),
    ):
        words[words.index(flag) + 1] = instead
    command = [sys.executable, "-m", "mlflow", *words[1:]]
    subprocess.run(
        command, env=environment | {"MLFLOW_TRACKING_URI": address}, check=True, capture_output=True
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_name_that_is_not_allowed_is_refused(server: tuple[str, dict[str, str]]):
    address, _ = server
    asked = urllib.request.Request(
        f"{address}/api/2.0/mlflow/experiments/search", headers={"Host": "evil.example"}
    )
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(asked, timeout=30)
