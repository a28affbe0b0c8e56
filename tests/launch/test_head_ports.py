"""A port that another program takes just before the head does: the next one is tried."""

import socket
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from qdet.errors import ClusterError
from qdet.launching import paths
from qdet.launching.ray_backend import head


@pytest.fixture
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Heads that end at once while `rivals` ports are taken under them, and run otherwise."""
    monkeypatch.setenv(paths.ROOT, str(tmp_path))
    sockets, started = [], []

    def start(ports, environment, log: Path, cpus):
        started.append(ports)
        log.write_text("")
        if len(started) > start.rivals:
            return subprocess.Popen(["sleep", "60"], start_new_session=True)
        rival = socket.socket()
        rival.bind((head.HOST, ports["port"]))
        rival.listen()
        sockets.append(rival)
        process = subprocess.Popen(["false"], start_new_session=True)
        process.wait()
        return process

    start.rivals = 0
    monkeypatch.setattr(head, "_start", start)
    monkeypatch.setattr(head, "_is_healthy", lambda url: True)
    yield start, started
    head.down(grace=2.0)
    for one in sockets:
        one.close()


def test_a_head_is_asked_to_listen_on_loopback_behind_a_token(tmp_path, monkeypatch):
    monkeypatch.setenv(paths.ROOT, str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    asked = {}

    def start(command, *, env, **settings):
        asked.update(command=command, env=env)
        return subprocess.Popen(["sleep", "60"], start_new_session=True)

    monkeypatch.setattr(head, "_is_healthy", lambda url: True)
    monkeypatch.setattr(head, "subprocess", SimpleNamespace(Popen=start, DEVNULL=-3, STDOUT=-2))
    head.up(timeout=5.0)
    head.down(grace=2.0)
    assert {"--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1"} <= set(asked["command"])
    assert asked["env"]["RAY_AUTH_MODE"] == "token"
    token = Path(asked["env"]["RAY_AUTH_TOKEN_PATH"])
    assert len(token.read_text()) >= 32
    assert token.stat().st_mode & 0o77 == 0


def test_the_next_port_is_taken(quick):
    start, started = quick
    start.rivals = 2
    record = head.up(timeout=5.0)
    assert len(started) == 3
    assert len({ports["port"] for ports in started}) == 3
    assert record.address == f"{head.HOST}:{started[-1]['port']}"
    assert head.running() == record


def test_a_port_that_was_asked_for_is_not_changed(quick):
    start, started = quick
    start.rivals = 1
    with socket.socket() as probe:
        probe.bind((head.HOST, 0))
        port = probe.getsockname()[1]
    with pytest.raises(ClusterError, match="stopped at once"):
        head.up(ports={"port": port}, timeout=5.0)
    assert len(started) == 1


def test_it_ends_after_some_attempts(quick):
    start, started = quick
    start.rivals = 99
    with pytest.raises(ClusterError, match="stopped at once"):
        head.up(timeout=5.0)
    assert len(started) == head.ATTEMPTS
    assert head.running() is None
