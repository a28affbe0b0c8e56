"""Ports that are taken in the same second, sockets whose paths are too long, and heads that do not start."""

import os
import socket
import tempfile
from pathlib import Path

import pytest

from qdet.errors import ClusterError, ConfigError
from qdet.launching.ray_backend import connect, head
from qdet.storage.sockets import check_socket_paths, is_free


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    monkeypatch.setenv("QDET_ROOT", str(tmp_path))
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.delenv("TMPDIR", raising=False)


class Rival:
    """Takes the port of the first head just before that does, so that it ends at once."""

    def __init__(self, flag):
        self.flag, self.socket, self.tried = flag, None, []

    def bring_up(self, chosen, cpus, timeout):
        self.tried.append(chosen[self.flag])
        if self.socket is None:
            self.socket = socket.socket()
            self.socket.bind(("127.0.0.1", chosen[self.flag]))
            raise ClusterError("the Ray head stopped at once; head.log ends with: GrpcServer: bind failed")
        return head.Head(
            pid=1,
            born=None,
            address=str(chosen[self.flag]),
            dashboard="",
            agent="",
            environment={},
        )


def free_range():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize("flag", list(head.PORTS))
def test_a_port_taken_in_the_same_second_is_followed_by_the_next(flag, monkeypatch, capsys):
    rival = Rival(flag)
    monkeypatch.setattr(head, "PORTS", {name: free_range() for name in head.PORTS})
    monkeypatch.setattr(head, "_bring_up", rival.bring_up)
    started = head.up()
    assert int(started.address) == rival.tried[1] > rival.tried[0]
    assert f"port {rival.tried[0]} was taken meanwhile" in capsys.readouterr().out
    rival.socket.close()


def test_a_port_that_was_asked_for_is_not_replaced(monkeypatch):
    rival, port = Rival("port"), free_range()
    monkeypatch.setattr(head, "_bring_up", rival.bring_up)
    with pytest.raises(ClusterError, match="stopped at once"):
        head.up(ports={"port": port})
    assert rival.tried == [port]
    rival.socket.close()


def test_a_head_that_fails_for_another_reason_is_started_once(monkeypatch):
    started = []

    def bring_up(chosen, cpus, timeout):
        started.append(chosen)
        raise ClusterError("the Ray head stopped at once; no space left")

    monkeypatch.setattr(head, "_bring_up", bring_up)
    with pytest.raises(ClusterError, match="no space"):
        head.up()
    assert len(started) == 1


def test_a_private_instance_takes_another_port_for_its_dashboard(monkeypatch):
    tried = []

    def start(port):
        tried.append(port)
        if len(tried) == 1:
            held.bind(("127.0.0.1", port))
            raise RuntimeError("dashboard: address already in use")
        return connect.Connection(address="127.0.0.1:1", private=True)

    monkeypatch.setattr(connect, "_start_private_at", start)
    with socket.socket() as held:
        assert connect.connect("local").private
    assert len(set(tried)) == 2
    assert is_free(tried[0])


@pytest.mark.parametrize("name", ["RAY_TMPDIR", "TMPDIR"])
def test_a_temporary_folder_too_deep_for_sockets_is_named(name, monkeypatch):
    deep = "/tmp/" + "d" * 60
    monkeypatch.setenv(name, deep)
    for start in (lambda: connect.connect("local"), head.up):
        with pytest.raises(ConfigError, match=rf"{name}={deep}: .*107; set RAY_TMPDIR to .*RAY_TMPDIR=/tmp"):
            start()


def test_the_limit_is_the_systems_own():
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        below = "/ray/session_2026-01-01_00-00-00_000000_0000000/sockets/plasma_store"
        for size in (39, 40):
            deep = folder + "/" + "d" * (size - len(folder) - 1)
            path = Path(deep + below)
            path.parent.mkdir(parents=True)
            with socket.socket(socket.AF_UNIX) as sock:
                if size == 39:
                    check_socket_paths({"RAY_TMPDIR": deep})
                    sock.bind(str(path))
                else:
                    with pytest.raises(ConfigError, match="108 bytes"):
                        check_socket_paths({"RAY_TMPDIR": deep})
                    with pytest.raises(OSError, match="too long"):
                        sock.bind(str(path))


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("http://head:8265", "RAY_ADDRESS http://head:8265: .*dashboard.*qdet submit JOB.py --address http"),
        ("ray://head:10001", "RAY_ADDRESS ray://head:10001: .*Ray Client"),
        ("head", "RAY_ADDRESS head: expected host:port"),
        ("head:99999", "RAY_ADDRESS head:99999: expected host:port"),
        ("127.0.0.1:9", "RAY_ADDRESS 127.0.0.1:9: nothing answers"),
    ],
)
def test_an_address_of_the_environment_is_named_as_such(address, said, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises((ConfigError, ClusterError), match=said):
        connect.connect()
    assert os.environ["RAY_ADDRESS"] == address
