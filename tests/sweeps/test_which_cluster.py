"""Training joins a cluster that the user named or started, and no other; a sweep trains in no other run."""

import json
import os
import socket
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import psutil
import pytest

from qdet.errors import ClusterError
from qdet.job import Job, Sweep
from qdet.launching import cli, paths
from qdet.launching.ray_backend import connect, head
from qdet.search import Choice


@pytest.fixture
def listening() -> Iterator[str]:
    """Address of something that accepts connections, as a Ray head would."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture(autouse=True)
def joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was joined or started, in an empty project, without Ray."""
    found: list[str] = []
    monkeypatch.setenv(paths.ROOT, str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def note(address: str = "private") -> connect.Connection:
        found.append(address)
        return connect.Connection(address=address, private=address == "private")

    monkeypatch.setattr(connect, "_join", note)
    monkeypatch.setattr(connect, "_start_private", note)
    return found


def _record(address: str) -> head.Head:
    me = psutil.Process()
    record = head.Head(
        pid=me.pid,
        born=me.create_time(),
        address=address,
        dashboard="http://d",
        agent="http://a",
        environment={},
    )
    (paths.state_folder() / "head.json").write_text(json.dumps(asdict(record)))
    return record


def test_a_cluster_that_ray_has_noted_on_this_machine_is_not_joined(joined, listening, tmp_path, monkeypatch):
    note = tmp_path / "ray_current_cluster"
    note.write_text(listening)
    monkeypatch.setattr(head, "CURRENT_CLUSTER", note)
    connect.connect()
    with pytest.raises(ClusterError, match="no Ray head of its own here"):
        connect.connect("auto")
    assert joined == ["private"]


def test_the_head_that_this_user_started_is_joined(joined, listening):
    _record(listening)
    connect.connect()
    connect.connect("auto")
    assert joined == [listening, listening]


def test_the_head_of_another_user_is_not_joined(joined, listening, monkeypatch):
    _record(listening)
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    connect.connect()
    assert joined == ["private"]


@pytest.mark.parametrize("by", ["flag", "variable"])
def test_a_named_cluster_goes_before_the_own_head(by, joined, listening, monkeypatch):
    _record("127.0.0.1:9")
    if by == "variable":
        monkeypatch.setenv("RAY_ADDRESS", listening)  # as in a Ray job
    connect.connect(listening if by == "flag" else None)
    assert joined == [listening]


def test_ray_joins_nothing_by_itself():
    """Ray's own function that starts or joins a cluster when it is called without a connection."""
    import ray
    from ray._private import auto_init_hook

    connect._disable_auto_connect()
    assert not auto_init_hook.enable_auto_connect
    with pytest.raises(Exception, match=r"ray\.init|not.*(started|connected|initialized)"):
        ray.get_actor("anything")
    assert not ray.is_initialized()


@pytest.mark.parametrize("also", [[], ["--dry-run"], ["--table", "rates"]])
def test_a_sweep_in_another_run_is_refused_and_changes_nothing(also, tmp_path: Path, capsys, joined):
    from qdet.recipes import Table

    run = tmp_path / "outputs" / "tiny-calm-owl"
    run.mkdir(parents=True)
    (run / "run.json").write_text("{}")
    before = _bytes(tmp_path)
    table = Table("optim.lr", {1e-4: 40.0, 1e-3: 41.0})
    sweep = Sweep(space={"optim.lr": Choice((1e-3, 1e-4))})
    with pytest.raises(SystemExit) as left:
        cli.launch(
            Job(name="tiny"),
            sweep=sweep,
            tables={"rates": table},
            args=["--sweep", "--store.resume", "tiny-calm-owl", *also],
        )
    assert left.value.code == 2
    assert "--store.resume tiny-calm-owl resumes one run" in capsys.readouterr().err
    assert _bytes(tmp_path) == before
    assert joined == []


def _bytes(folder: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
