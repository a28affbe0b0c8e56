"""Which Ray cluster a job joins by itself: one that this user alone can have named, and with a token."""

import os
import socket
from pathlib import Path

import pytest

from qdet.errors import ClusterError
from qdet.launching.ray_backend import auth, connect, head


@pytest.fixture
def listening():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def note(tmp_path: Path, listening: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A note of a cluster that answers, as this user alone can have written it."""
    folder = tmp_path / "ray"
    folder.mkdir(mode=0o700)
    file = folder / "ray_current_cluster"
    file.write_text(f"{listening}\n")
    file.chmod(0o644)
    monkeypatch.setattr(head, "CURRENT_CLUSTER", file)
    monkeypatch.setenv("QDET_ROOT", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in (auth.MODE, auth.TOKEN, auth.TOKEN_PATH, "RAY_ADDRESS"):
        monkeypatch.setenv(name, "")  # so that it is put back after the test
        monkeypatch.delenv(name)
    return file


@pytest.mark.usefixtures("note")
def test_a_note_of_ones_own_is_followed_with_a_token(listening: str):
    assert connect._find_local() == listening
    assert os.environ[auth.MODE] == "token"
    assert Path(os.environ[auth.TOKEN_PATH]).is_file()


def writable_folder(note: Path) -> None:
    note.parent.chmod(0o777)


def sticky_folder(note: Path) -> None:
    note.parent.chmod(0o1777)  # as /tmp: anybody may write the note first


def group_folder(note: Path) -> None:
    note.parent.chmod(0o770)


def writable_note(note: Path) -> None:
    note.chmod(0o666)


def writable_above(note: Path) -> None:
    note.parent.parent.chmod(0o777)


def linked_note(note: Path) -> None:
    note.rename(note.with_name("other"))
    note.symlink_to(note.with_name("other"))


def linked_folder(note: Path) -> None:
    note.parent.rename(note.parent.with_name("elsewhere"))
    note.parent.symlink_to(note.parent.with_name("elsewhere"))


def pipe(note: Path) -> None:
    note.unlink()
    os.mkfifo(note)


def folder(note: Path) -> None:
    note.unlink()
    note.mkdir()


def missing(note: Path) -> None:
    note.unlink()


def no_address(note: Path) -> None:
    note.write_text("127.0.0.1:1 --token=none")


DOUBTS = [
    writable_folder, sticky_folder, group_folder, writable_note, writable_above, linked_note, linked_folder,
    pipe, folder, missing, no_address,
]  # fmt: skip


@pytest.mark.parametrize("doubt", DOUBTS)
def test_a_note_that_another_could_have_written_is_not(doubt, note: Path, tmp_path: Path):
    doubt(note)
    try:
        assert connect._find_local() is None
        with pytest.raises(ClusterError, match="--ray-address HOST:PORT"):
            connect.connect("auto")
    finally:
        tmp_path.chmod(0o700)


def test_another_users_note_is_not_followed(note: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("os.geteuid", lambda: note.stat().st_uid + 1)
    assert connect.read_own_note(note) is None


def test_a_cluster_that_does_not_answer_is_passed_over(note: Path):
    note.write_text("127.0.0.1:9")
    assert connect._find_local() is None
