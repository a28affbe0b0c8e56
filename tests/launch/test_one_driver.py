"""Two drivers and one run, as real processes: one of them writes, and who lost the run touches nothing."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
FLAGS = ("--train.log-every", "1", "--train.checkpoint-every", "5", "--track.experiment", "one")


class Driver:
    """A driver of the run `night`, and what it has printed."""

    def __init__(self, folder: Path, *flags: str, steps: int) -> None:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_", "QDET_"))}
        settings = {"PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1", "QDET_LEASE_S": "5"}
        self.process = subprocess.Popen(
            [sys.executable, "tiny_job.py", "--local", *FLAGS, "--train.steps", str(steps), *flags],
            cwd=folder, env=kept | settings | {"PYTHONUNBUFFERED": "1"}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def text(self) -> str:
        return "".join(self.lines)

    def kill(self) -> None:
        """Kill it, if it is there; a suspended one too."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def wait_for(self, pattern: str, seconds: float = 600) -> None:
        until = time.monotonic() + seconds
        while not re.search(pattern, self.text, re.MULTILINE):
            assert time.monotonic() < until, f"no {pattern!r} in:\n{self.text}"
            assert self.process.poll() is None or self._reader.is_alive(), self.text
            time.sleep(0.02)

    def end(self) -> int:
        code = self.process.wait(timeout=600)
        self._reader.join(30)
        print(self.text)
        return code

    def _read(self) -> None:
        self.lines.extend(iter(self.process.stdout.readline, ""))


@pytest.fixture
def project(tmp_path: Path, demo_shards: Path) -> Path:
    shutil.copy(REPO / "tests" / "support" / "tiny_job.py", tmp_path / "tiny_job.py")
    (tmp_path / "data").symlink_to(demo_shards)
    return tmp_path


@pytest.fixture
def drive(project: Path) -> Iterator[Callable[..., Driver]]:
    """Return a function that starts a driver; those left running are killed after the test."""
    started: list[Driver] = []

    def start(*flags: str, steps: int) -> Driver:
        started.append(Driver(project, *flags, steps=steps))
        return started[-1]

    yield start
    for driver in started:
        driver.kill()


def digests(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def mlflow_runs(project: Path) -> list:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{project / 'mlflow.db'}")
    return client.search_runs([e.experiment_id for e in client.search_experiments()])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_second_driver_is_refused_and_a_paused_one_that_wakes_up_touches_nothing(project: Path, drive):
    run = project / "outputs" / "night"
    first = drive("--store.run", "night", steps=400)
    first.wait_for(r"^step 6/400")

    second = drive("--store.resume", "night", steps=400)
    assert second.end() == 2  # refused
    assert re.search(r"night is being written by process \d+ on .* still renews its lease", second.text)
    assert f"process {first.process.pid} on" in second.text
    assert first.process.poll() is None

    first.process.send_signal(signal.SIGSTOP)
    step = int(re.findall(r"^step (\d+)/400", first.text, re.MULTILINE)[-1])
    third = drive("--store.resume", "night", steps=step + 5)
    assert third.end() == 0
    assert "waiting up to 5 s" in third.text
    assert re.search(r"^resuming from step \d+ of", third.text, re.MULTILINE)
    before = digests(run)

    first.process.send_signal(signal.SIGCONT)
    assert first.end() == 1
    assert re.search(r"^LeaseError: .*night was taken over by process", first.text, re.MULTILINE)
    changed = {name for name, digest in digests(run).items() if before.get(name) != digest}
    assert changed == set()
    assert json.loads((run / "run.json").read_text())["status"] == "finished"
    (found,) = mlflow_runs(project)
    assert found.info.status == "FINISHED"
    assert "qdet.cause" not in found.data.tags


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_driver_of_this_machine_is_not_waited_for(drive):
    first = drive("--store.run", "night", steps=400)
    first.wait_for(r"^step 6/400")
    first.process.kill()
    first.end()
    second = drive("--store.resume", "night", steps=12)
    assert second.end() == 0
    assert "waiting up to" not in second.text
    assert re.search(r"^resuming from step \d+ of 12", second.text, re.MULTILINE)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_take_over_stops_the_driver_that_lives(drive):
    first = drive("--store.run", "night", steps=4000)
    first.wait_for(r"^step 6/4000")
    second = drive("--store.resume", "night", "--store.take-over", steps=4000)
    assert first.end() == 1
    assert "LeaseError" in first.text
    second.wait_for(r"^step \d+/4000")
    second.process.terminate()
    assert second.end() == 143
