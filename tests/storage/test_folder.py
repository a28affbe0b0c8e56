"""One folder for everything: the same promises on this machine and behind a URL, whatever a server does."""

import errno
import os
import pickle
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from qdet.errors import StorageError
from qdet.storage import Folder, network
from qdet.storage.local import LocalFiles
from qdet.storage.remote import RemoteFiles


@pytest.fixture
def memory(monkeypatch):
    monkeypatch.setattr(network, "PAUSES", (0.0, 0.0, 0.0))
    yield fsspec.filesystem("memory")
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


@pytest.fixture(params=["local", "memory"])
def folder(request, tmp_path, memory):
    return Folder.open(tmp_path / "run" if request.param == "local" else "memory://bucket/run")


class Fault:
    """Raises an error for a number of calls of a method, and counts all of them."""

    def __init__(self, monkeypatch, method, error, times):
        self.calls, self.error, self.times = 0, error, times
        working = getattr(MemoryFileSystem, method)

        def call(*args, **settings):
            self.calls += 1
            if self.calls <= self.times:
                raise self.error
            return working(*args, **settings)

        monkeypatch.setattr(MemoryFileSystem, method, call)


def test_files_and_folders_are_listed_apart(folder):
    assert (folder.names(), folder.folders(), folder.child("none").names()) == ([], [], [])
    folder.put("run.json", b"{}")
    folder.child("step_2").put("b", b"12")
    folder.child("step_1").put("a", b"1")
    assert (folder.names(), folder.folders()) == (["run.json"], ["step_1", "step_2"])
    assert folder.child("step_2").names() == folder.names("step_2") == ["b"]
    assert (folder.size("step_2/b"), folder.size("step_2"), folder.size("run.json/b")) == (2, None, None)
    assert abs(folder.modified("run.json") - datetime.now(UTC)) < timedelta(minutes=1)
    assert (folder.name, folder.child("step_2").name) == ("run", "step_2")


def test_the_manifest_is_the_first_to_go(folder, monkeypatch):
    for name in ("a", "manifest.json", "z"):
        folder.put(name, b"1")
    left = []
    for kind in (LocalFiles, RemoteFiles):
        remove = kind.remove
        monkeypatch.setattr(
            kind, "remove", lambda *args, remove=remove: (remove(*args), left.append(folder.names()))
        )
    folder.remove_all()
    assert left == [["a", "z"], []]
    folder.remove_all()  # of nothing


def test_a_folder_is_the_same_place_however_it_is_named_and_wherever_it_is_sent(folder, tmp_path):
    folder.put("x", b"1")
    sent = pickle.loads(pickle.dumps(folder))
    assert sent == folder
    assert sent.read("x") == b"1"
    assert Folder.open(f"file://{tmp_path}/run/") == Folder.open(tmp_path / "run") != folder.child("x")
    assert str(Folder.open("https://me:hidden@host/x")) == "https://me:***@host/x"


def test_what_stands_behind_a_question_mark_stays_at_the_end(memory, tmp_path):
    memory.pipe_file("/bucket/a/name.tar?key=1", b"here")
    folder, name = Folder.holding("memory://bucket/a/name.tar?key=1")
    assert (folder.url, name, folder.read(name)) == ("memory://bucket/a?key=1", "name.tar", b"here")
    assert Folder.open("memory://bucket?key=1").child("a").read(name) == b"here"
    (tmp_path / "a?b").mkdir()
    (tmp_path / "a?b" / "c?d").write_bytes(b"local")
    folder, name = Folder.holding(tmp_path / "a?b" / "c?d")
    assert (folder.local, folder.read(name)) == (tmp_path / "a?b", b"local")


def test_a_server_that_fails_is_asked_four_times(memory, monkeypatch):
    folder = Folder.open("memory://bucket")
    folder.put("x", b"1")
    fault = Fault(monkeypatch, "cat_file", OSError("busy"), times=3)
    assert (folder.read("x"), fault.calls) == (b"1", 4)
    fault = Fault(monkeypatch, "info", OSError("busy"), times=100)
    with pytest.raises(StorageError, match=r"^memory://bucket/x cannot be read: busy; check the server"):
        folder.size("x")
    assert fault.calls == 4


@pytest.mark.parametrize("error", [PermissionError("no"), FileNotFoundError("none")])
def test_a_refusal_is_taken_at_once(memory, monkeypatch, error):
    fault = Fault(monkeypatch, "cat_file", error, times=100)
    with pytest.raises(OSError, match="no"):
        Folder.open("memory://bucket").read("x")
    assert fault.calls == 1


class Breaking(BytesIO):
    """A connection that breaks after five reads."""

    left = 5

    def read(self, size=-1, /):
        if not self.left:
            raise ConnectionResetError("reset")
        self.left -= 1
        return super().read(size)


def test_a_connection_that_breaks_is_resumed_where_it_was(memory, monkeypatch):
    content, opened = bytes(range(90)), []
    monkeypatch.setattr(MemoryFileSystem, "open", lambda *_, **__: opened.append(1) or Breaking(content))
    with Folder.open("memory://bucket").reader("x") as file:
        assert b"".join(file.read(15) for _ in range(6)) == content
        assert len(opened) == 2


def test_a_file_that_changes_before_it_is_resumed_is_named(memory, monkeypatch):
    contents = [bytes(90), *[bytes(30)] * 4]
    monkeypatch.setattr(MemoryFileSystem, "open", lambda *_, **__: Breaking(contents.pop(0)))
    with Folder.open("memory://bucket").reader("x") as file:
        assert b"".join(file.read(15) for _ in range(5)) == bytes(75)
        with pytest.raises(StorageError, match="bucket/x cannot be read: it is shorter than it was"):
            file.read(15)
    assert len(contents) == 1  # the first read was the first of four attempts


def test_a_file_and_then_its_name_are_brought_to_the_disk(tmp_path, monkeypatch):
    events, sync, rename = [], os.fsync, os.replace
    monkeypatch.setattr(
        os,
        "fsync",
        lambda fd: (events.append("folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file"), sync(fd)),
    )
    monkeypatch.setattr(os, "replace", lambda *names: (events.append("rename"), rename(*names)))
    Folder.open(tmp_path).put("x", b"1")
    assert events == ["file", "rename", "folder"]


def record_synced_folders(monkeypatch) -> list[str]:
    """Return the list of folders that are brought to the disk from now on, in order."""
    synced, sync = [], os.fsync

    def note(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    return synced


@pytest.mark.parametrize("write", ["writer", "put", "create"])
def test_the_names_of_new_folders_are_brought_to_the_disk(tmp_path, monkeypatch, write):
    """Else a checkpoint whose files are on the disk is gone with the power, as nothing names its folder."""
    synced = record_synced_folders(monkeypatch)
    folder = Folder.open(tmp_path / "store" / "run" / "step_000500")
    if write == "writer":
        with folder.writer("x", atomic=False) as file:
            file.write(b"1")
    else:
        getattr(folder, write)("x", b"1")
    assert synced[:3] == [str(tmp_path), str(tmp_path / "store"), str(tmp_path / "store" / "run")]
    before = len(synced)
    folder.put("y", b"1")
    assert synced[before:] == [folder.path]  # those above it are there


def test_the_name_of_a_claimed_folder_is_brought_to_the_disk(tmp_path, monkeypatch):
    synced = record_synced_folders(monkeypatch)
    assert Folder.open(tmp_path).claim("run")
    assert synced == [str(tmp_path)]


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    folder = Folder.open(tmp_path)
    folder.put("x", b"old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        folder.put("x", b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("x", b"old")]


def test_a_broken_upload_leaves_what_was_there(memory, monkeypatch):
    folder = Folder.open("memory://bucket/run")
    folder.put("x", b"old")
    Fault(monkeypatch, "mv", OSError("reset"), times=1)
    with pytest.raises(StorageError, match="memory://bucket/run/x cannot be written: reset"):
        folder.put("x", b"new")
    assert {name: memory.cat_file(name) for name in memory.find("/bucket")} == {"/bucket/run/x": b"old"}


def test_what_a_manifest_vouches_for_is_not_copied_first(memory, monkeypatch):
    Fault(monkeypatch, "put_file", AssertionError("copied"), times=1)
    folder = Folder.open("memory://bucket/run")
    with folder.writer("x", atomic=False) as file:
        file.write(b"straight")
    assert folder.read("x") == b"straight"


def test_a_url_that_nothing_opens_is_named():
    with pytest.raises(StorageError, match=r"gopher://host/store cannot be opened"):
        Folder.open("gopher://host/store")


def test_file_systems_are_imported_when_a_url_is_opened(tmp_path):
    code = "import sys; from qdet.storage import Folder; Folder.open(sys.argv[1]).put('x', b'1'); "
    code += "sys.exit('fsspec' in sys.modules)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
