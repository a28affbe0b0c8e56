"""A Ray head on this machine: on loopback, behind a token, up until it is taken down.

The entry point of a Ray job runs in the folder and environment of its head. The head therefore starts in the
project folder: `ray job submit jobs/adamixer_swin.py` finds the job, its data and this Python.
"""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass
from http import HTTPStatus
from pathlib import Path

import msgspec

from qdet.errors import ClusterError
from qdet.launching import paths
from qdet.launching.ray_backend import auth
from qdet.storage.parsing import parse_json
from qdet.storage.proxies import exempt_loopback, exempt_loopback_here
from qdet.storage.sockets import HOST, check_socket_paths, choose_ports, is_free

API_SERVER = "RAY_API_SERVER_ADDRESS"  # URL of the dashboard; without it Ray looks for one at every report
CURRENT_CLUSTER = Path("/tmp/ray/ray_current_cluster")  # Ray's record of the last head on this machine
LOCAL_SETTINGS = {
    # Otherwise, as on macOS, Ray replaces 127.0.0.1 by the machine's external address and listens there.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    # A head that goes down holds nothing that others need: do not wait half a minute for it to drain.
    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
    # At Ray's default of 15 a worker gets 3% of a contended core, and collectives time out.
    "RAY_worker_niceness": "0",
    # By default `ray job stop` kills three seconds after SIGTERM: too soon for a checkpoint.
    "RAY_JOB_STOP_WAIT_TIME_S": "60",
}
PORTS = {"port": 6379, "dashboard-port": 8265, "agent-port": 52365}
ATTEMPTS = 3
"""Starts of a head whose ports another process takes in the same second."""
OBJECT_STORE = 256 * 2**20  # bytes; data moves through shards and checkpoints, not through Ray


@dataclass(frozen=True, kw_only=True)
class Head:
    """A head started by `up`: how to reach it, and how to recognize its process."""

    pid: int
    born: float | None
    """When the process started, since process ids are reused."""
    address: str
    """host:port, for --ray-address and RAY_ADDRESS."""
    dashboard: str
    """URL of the dashboard and of job submission."""
    agent: str
    """URL for health checks of the agent, which starts jobs."""
    environment: dict[str, str]
    """Environment variables that clients of this head need."""


def up(*, ports: dict[str, int | None] | None = None, cpus: int | None = None, timeout: float = 90.0) -> Head:
    """Start a head, wait until it accepts jobs and return it; if one is running, return that.

    Args:
        ports: Fixed ports by flag name (see `PORTS`); the others take the next free one.
        cpus: CPUs that the head offers; by default those of the machine.
        timeout: Seconds to wait until it accepts jobs.

    Raises:
        ClusterError: A port is taken, or the head did not start; the message names its log.
    """
    exempt_loopback_here()
    already = running()
    if already is not None:
        return already
    check_socket_paths(os.environ)
    asked = {flag: (ports or {}).get(flag) for flag in PORTS}
    for attempt in range(ATTEMPTS):
        chosen = choose_ports(asked, PORTS)
        try:
            return _bring_up(chosen, cpus, timeout)
        except ClusterError:
            taken = [flag for flag, port in chosen.items() if asked[flag] is None and not is_free(port)]
            if not taken or attempt == ATTEMPTS - 1:
                raise
            print(f"{' and '.join(f'port {chosen[flag]}' for flag in taken)} was taken meanwhile", flush=True)
    raise AssertionError("unreachable")


def _bring_up(chosen: dict[str, int], cpus: int | None, timeout: float) -> Head:
    """Start a head on these ports and wait until it accepts jobs; ClusterError where it does not."""
    environment = dict(os.environ)
    client = auth.require_token(environment)
    dashboard = f"http://{HOST}:{chosen['dashboard-port']}"
    client |= {API_SERVER: dashboard, **LOCAL_SETTINGS, **exempt_loopback(environment)}
    log = paths.state_folder() / "head.log"
    process = _start(chosen, _job_environment(environment, dashboard), log, cpus)
    record = Head(
        pid=process.pid,
        born=_creation_time(process.pid),
        address=f"{HOST}:{chosen['port']}",
        dashboard=dashboard,
        agent=f"http://{HOST}:{chosen['agent-port']}",
        environment=client,
    )
    _record_file().write_text(json.dumps(asdict(record), indent=2))
    try:
        _wait_until_ready(record, process, log, timeout)
    except BaseException:
        down()
        raise
    return record


def running() -> Head | None:
    """Return the head that `up` started from this folder, or None if its process is gone."""
    file = _record_file()
    if not file.is_file():
        return None
    try:
        record = msgspec.convert(parse_json(file.read_text()), Head)
    except (OSError, ValueError) as error:
        raise ClusterError(f"{file} is no record of a Ray head ({error}): remove it") from error
    return record if record.born is not None and _creation_time(record.pid) == record.born else None


def down(*, grace: float = 20.0) -> bool:
    """Stop the head that `up` started, with its children; return False if there is none."""
    record = running()
    if record is not None:
        os.killpg(record.pid, signal.SIGTERM)
        deadline = time.monotonic() + grace
        while _group_is_alive(record.pid) and time.monotonic() < deadline:
            _reap(record.pid)
            time.sleep(0.2)
        if _group_is_alive(record.pid):
            os.killpg(record.pid, signal.SIGKILL)
            _reap(record.pid)
        if CURRENT_CLUSTER.is_file() and CURRENT_CLUSTER.read_text().strip() == record.address:
            CURRENT_CLUSTER.unlink()  # Ray's commands would wait 40 s for it
    _record_file().unlink(missing_ok=True)
    return record is not None


def export_lines(record: Head) -> str:
    """Return the shell lines with which `ray job submit` and the dashboard reach the head."""
    return "\n".join(
        f"export {name}={shlex.quote(value)}" for name, value in sorted(record.environment.items())
    )


def _start(
    ports: dict[str, int], environment: dict[str, str], log: Path, cpus: int | None
) -> "subprocess.Popen[bytes]":
    ray = shutil.which("ray", path=environment["PATH"])
    if ray is None:
        raise ClusterError("no `ray` command beside this Python; install it with pip install -e .")
    command = [ray, "start", "--head", "--block", "--disable-usage-stats", f"--node-ip-address={HOST}"]
    command += [f"--port={ports['port']}", f"--dashboard-agent-listen-port={ports['agent-port']}"]
    command += [f"--dashboard-host={HOST}", f"--dashboard-port={ports['dashboard-port']}"]
    command += [f"--object-store-memory={OBJECT_STORE}"] + ([f"--num-cpus={cpus}"] if cpus else [])
    with log.open("wb") as out:
        return subprocess.Popen(
            command,
            cwd=paths.root(),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _job_environment(environment: dict[str, str], dashboard: str) -> dict[str, str]:
    """Return what jobs inherit: Python, project, root of paths, MLflow; for Ray Train, the dashboard."""
    root = str(paths.root())
    own = {
        paths.ROOT: root,
        paths.TRACKING: paths.tracking_uri(),
        API_SERVER: dashboard,
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), environment.get("PATH", os.defpath))),
        "PYTHONPATH": os.pathsep.join(filter(None, (root, environment.get("PYTHONPATH")))),
    }
    kept = {name: value for name, value in environment.items() if name != "RAY_ADDRESS"}
    return kept | LOCAL_SETTINGS | exempt_loopback(kept) | own


def _wait_until_ready(record: Head, process: "subprocess.Popen[bytes]", log: Path, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if process.poll() is not None:
            tail = " | ".join(log.read_text(errors="replace").strip().splitlines()[-3:])
            raise ClusterError(f"the Ray head stopped at once; {log} ends with: {tail}")
        if _is_healthy(f"{record.dashboard}/api/version") and _is_healthy(
            f"{record.agent}/api/local_raylet_healthz"
        ):
            return
        time.sleep(0.5)
    raise ClusterError(f"the Ray head did not come up within {timeout:.0f} s; see {log}")


def _is_healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except urllib.error.HTTPError as answer:
        return answer.code == HTTPStatus.UNAUTHORIZED  # it is up, and asks for the token
    except OSError:
        return False


def _record_file() -> Path:
    return paths.state_folder() / "head.json"


def _creation_time(pid: int) -> float | None:
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.NoSuchProcess:
        return None


def _group_is_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _reap(pid: int) -> None:
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return
