"""Fixtures: a project folder, jobs that run in the background, and simulated nodes on one machine."""

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import psutil
import pytest

from qdet.launching.ray_backend import auth, head
from qdet.launching.runs import report

REPO = Path(__file__).resolve().parents[2]
PORT = 6479
"""Port of the simulated cluster's head; not Ray's default, which another head may use."""


@pytest.fixture(scope="module")
def only_cluster() -> Iterator[None]:
    """Hold a lock: Ray works well with one cluster per machine only."""
    with (Path(tempfile.gettempdir()) / "qdet-ray.lock").open("w") as lock:
        if not os.environ.get("QDET_TEST_HOLDS_RAY_LOCK"):  # then the process that started pytest holds it
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture
def project(tmp_path: Path, demo_shards: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: a project with a tiny job and its shards."""
    job = tmp_path / "jobs" / "tiny_job.py"
    job.parent.mkdir()
    shutil.copy(REPO / "tests" / "support" / "tiny_job.py", job)
    job.chmod(0o755)
    (tmp_path / "data").symlink_to(demo_shards)
    for name in [*os.environ]:
        if name.startswith(("RAY_", "QDET_", "MLFLOW_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PYTHONPATH", str(REPO))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv(report.RESULT, str(tmp_path / "result.json"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Watched:
    """A job running in the background, and what it has printed so far."""

    def __init__(self, *flags: str) -> None:
        self.lines: list[tuple[float, str]] = []
        """Time and text of every line."""
        self.process = subprocess.Popen(
            [sys.executable, "jobs/tiny_job.py", *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # Otherwise Ray prints lines that differ only in numbers once.
            env=os.environ | {"PYTHONUNBUFFERED": "1", "RAY_DEDUP_LOGS": "0"},
        )
        self.started = time.monotonic()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def text(self) -> str:
        """Everything printed so far."""
        return "".join(line for _, line in self.lines)

    def wait_for(self, pattern: str, *, after: int = 0, seconds: float = 200.0) -> re.Match[str]:
        """Wait for a line that matches the pattern, from line number `after` on; return the match."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for _, line in self.lines[after:]:
                if found := re.search(pattern, line):
                    return found
            if self.process.poll() is not None and not self._reader.is_alive():
                break
            time.sleep(0.05)
        raise AssertionError(f"no line with {pattern!r} after line {after} within {seconds:g} s")

    def workers(self) -> list[psutil.Process]:
        """Return the workers of the job's private Ray, rank 0, which prints the steps, first."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        workers = [process for process in children if "RayTrainWorker" in " ".join(process.cmdline())]
        printing = re.findall(r"^(?:trial t\d+: )?rank 0 is process (\d+) on ", self.text, re.MULTILINE)
        return sorted(workers, key=lambda process: str(process.pid) not in printing)

    def when(self, pattern: str, *, after: float = 0.0) -> float:
        """Return the time of the first line that matches, printed after the time `after`."""
        return next(at for at, line in self.lines if at > after and re.search(pattern, line))

    def end(self, seconds: float = 300.0) -> int:
        """Wait for the end and return the exit code."""
        code = self.process.wait(timeout=seconds)
        self._reader.join(timeout=30)
        return code

    def _read(self) -> None:
        for line in self.process.stdout or ():
            self.lines.append((time.monotonic(), line))
            print(line, end="")


@pytest.fixture
def start(project: Path) -> Iterator[Callable[..., Watched]]:
    """Return a function that starts the tiny job with flags; jobs left running are killed after the test."""
    started: list[Watched] = []

    def launch(*flags: str) -> Watched:
        started.append(Watched(*flags))
        return started[-1]

    yield launch
    for job in started:
        if job.process.poll() is None:
            _kill_tree(job.process.pid)
            job.process.wait()


class Nodes:
    """A Ray cluster of simulated nodes on this machine, at 127.0.0.2, 127.0.0.3, ..., with a token.

    Args:
        head_flags: Of `ray start` of its head, beside what every head has.
    """

    def __init__(self, head_flags: Sequence[str] = ()) -> None:
        self.address = f"127.0.0.2:{PORT}"
        settings = head.LOCAL_SETTINGS | {
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",  # 0 allows one node only
            "RAY_raylet_start_wait_time_s": "180",  # a busy machine starts several of them slowly
        }
        self._environment = os.environ | settings
        auth.require_token(self._environment)
        known = (name for name in (auth.MODE, auth.TOKEN_PATH) if name in self._environment)
        os.environ.update({name: self._environment[name] for name in known})
        self._log = Path("nodes.log").open("ab")  # noqa: SIM115  (closed with the cluster)
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        ports = ("--dashboard-host=127.0.0.1", "--dashboard-port=8475", "--dashboard-agent-listen-port=0")
        self._start(2, "--head", f"--port={PORT}", "--num-cpus=0", *ports, *head_flags)
        self._until(lambda: self._ray("status").returncode == 0, "the head does not start")

    def add(
        self,
        *hosts: int,
        flags: Sequence[str] = (),
        wrapper: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start nodes of one CPU at 127.0.0.`host` and wait for each.

        Args:
            hosts: Last numbers of their addresses.
            flags: Of `ray start`.
            wrapper: Command that runs the one that follows it.
            environment: Variables of theirs alone.
        """
        joining = (f"--address={self.address}", "--num-cpus=1", "--dashboard-agent-listen-port=0", *flags)
        for host in hosts:  # one by one: at once they would choose the same socket names
            self._start(host, *joining, wrapper=wrapper, environment=environment)
            self._until(lambda: host in self.alive(), f"node {host} does not start")  # noqa: B023  (called here)

    def alive(self) -> dict[int, str]:
        """Return the ids of the live nodes, by host."""
        listed = self._ray(
            "list", "nodes", "--format=json", "--filter=state=ALIVE", "--address", self.address
        )
        if listed.returncode or "[" not in listed.stdout:
            return {}
        found = json.loads(listed.stdout[listed.stdout.index("[") :])
        return {int(node["node_ip"].rsplit(".", 1)[1]): node["node_id"] for node in found}

    def node_of(self, actor: str) -> str | None:
        """Return the node id of the live actor of that name; None without one."""
        listed = self._ray(
            *("list", "actors", "--format=json", "--address", self.address),
            *("--filter", f"name={actor}", "--filter", "state=ALIVE"),
        )
        assert listed.returncode == 0, listed.stderr
        found = json.loads(listed.stdout[listed.stdout.index("[") :])
        return found[0]["node_id"] if found else None

    def kill(self, host: int) -> None:
        """Kill a node and everything on it, as when a machine loses power."""
        _kill_tree(self._processes.pop(host).pid)

    def drain(self, host: int, *, seconds: int) -> None:
        """Tell the cluster that a node will be preempted in `seconds`."""
        done = self._ray(
            *("drain-node", "--address", self.address, "--node-id", self.alive()[host]),
            *("--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"),
            *("--deadline-remaining-seconds", str(seconds)),
        )
        assert done.returncode == 0, done.stderr

    def stop(self) -> None:
        """Take all nodes down."""
        for host in sorted(self._processes, reverse=True):
            self.kill(host)
        self._log.close()
        if head.CURRENT_CLUSTER.is_file() and head.CURRENT_CLUSTER.read_text().strip() == self.address:
            head.CURRENT_CLUSTER.unlink()  # a killed head leaves it to mislead a later Ray

    def pause(self, host: int) -> None:
        """Stop the processes of a node where they are, as when a machine hangs."""
        root = psutil.Process(self._processes[host].pid)
        for process in [root, *root.children(recursive=True)]:
            process.suspend()

    def _start(
        self,
        host: int,
        *flags: str,
        wrapper: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        command = ["ray", "start", "--block", "--disable-usage-stats", f"--node-ip-address=127.0.0.{host}"]
        self._processes[host] = subprocess.Popen(
            [*wrapper, *command, f"--object-store-memory={100 * 2**20}", *flags],
            env=self._environment | dict(environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    def _ray(self, *command: str) -> subprocess.CompletedProcess[str]:
        environment = self._environment | {"RAY_ADDRESS": self.address}
        return subprocess.run(
            ["ray", *command], env=environment, capture_output=True, text=True, check=False, timeout=60
        )

    def _until(self, condition: Callable[[], bool], message: str) -> None:
        deadline = time.monotonic() + 200
        while not condition():
            exited = any(process.poll() is not None for process in self._processes.values())
            if exited or time.monotonic() > deadline:
                raise AssertionError(f"{message}: {Path('nodes.log').read_text()[-2000:]}")
            time.sleep(1.0)


@pytest.fixture
def nodes(project: Path, only_cluster: None) -> Iterator[Nodes]:
    """A head without CPUs, to which the test adds nodes."""
    cluster = Nodes()
    try:
        yield cluster
    finally:
        cluster.stop()


def _kill_tree(pid: int) -> None:
    """Kill a process and all its descendants, listed before any of them is killed."""
    try:
        root = psutil.Process(pid)
    except psutil.NoSuchProcess:
        return
    for process in [root, *root.children(recursive=True)]:
        try:
            process.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue
