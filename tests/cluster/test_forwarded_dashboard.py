"""A submitted job gets this machine's paths on its own head alone, and none through a port forward."""

from pathlib import Path

import pytest

from qdet.launching import paths
from qdet.launching.ray_backend import head, submit

OWN = head.Head(
    pid=1, born=None, address="127.0.0.1:6379", dashboard="http://127.0.0.1:8265", agent="", environment={}
)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in (paths.ROOT, paths.TRACKING):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.mark.parametrize("address", ["http://localhost:8265", "http://127.0.0.1:8265", "http://head:8265"])
def test_a_forward_takes_no_path_of_this_machine(
    address: str, project: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(head, "running", lambda: None)
    found = submit._environment(address)
    assert {paths.ROOT, paths.TRACKING} & found.keys() == set()
    assert str(project) not in str(found)


def test_a_forward_beside_an_own_head_is_told_apart_by_its_port(
    monkeypatch: pytest.MonkeyPatch, project: Path
):
    monkeypatch.setattr(head, "running", lambda: OWN)
    assert paths.ROOT not in submit._environment("http://localhost:8266")
    for address in ("http://localhost:8265", "http://127.0.0.1:8265/"):
        assert submit._environment(address)[paths.ROOT] == str(project)


def test_what_the_user_has_set_travels(monkeypatch: pytest.MonkeyPatch, project: Path):
    monkeypatch.setattr(head, "running", lambda: None)
    monkeypatch.setenv(paths.ROOT, "/shared")
    monkeypatch.setenv(paths.TRACKING, "http://mlflow:5000")
    found = submit._environment("http://localhost:8265")
    assert (found[paths.ROOT], found[paths.TRACKING]) == ("/shared", "http://mlflow:5000")
