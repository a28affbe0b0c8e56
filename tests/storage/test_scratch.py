"""Temporary folders of killed processes go at the next start; those in use, and other people's, stay."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from qdet.storage import scratch
from qdet.storage.scratch import ScratchFolder, remove_abandoned

PREFIX = "qdet-checkpoint-"
HOLD = f"""
import time
from qdet.storage.scratch import ScratchFolder
folder = ScratchFolder({PREFIX!r})
(folder.path / "file").write_text("x")
print(folder.path, flush=True)
time.sleep(600)
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This test's folder for temporary files, also of its processes."""
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def test_a_killed_process_leaves_a_folder_until_the_next_start(here: Path):
    process = subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    folder = Path(process.stdout.readline().strip())
    try:
        assert folder.parent == here
        assert remove_abandoned(PREFIX) == []
        assert (folder / "file").read_text() == "x"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert folder.exists()
    assert remove_abandoned(PREFIX) == [folder]
    assert not folder.exists()


def test_only_what_is_known_to_be_left_behind_is_removed(here: Path, monkeypatch: pytest.MonkeyPatch):
    mine = ScratchFolder(PREFIX)
    other = ScratchFolder("qdet-other-")
    (here / f"{PREFIX}file").touch()
    (here / "elsewhere").mkdir()
    (here / "elsewhere" / scratch.IN_USE).touch()
    (here / f"{PREFIX}link").symlink_to(here / "elsewhere")
    young, old, locked = (here / f"{PREFIX}{name}" for name in ("young", "old", "locked"))
    for folder in (young, old, locked):
        folder.mkdir()
    (locked / scratch.IN_USE).symlink_to(here / "elsewhere" / scratch.IN_USE)
    os.utime(old, (0, time.time() - scratch.ABANDONED - 60))
    os.utime(locked, (0, 0))
    before = set(here.iterdir())
    with monkeypatch.context() as patched:
        patched.setattr(os, "geteuid", lambda: os.getuid() + 1)
        assert remove_abandoned(PREFIX) == []  # another user's
    assert remove_abandoned(PREFIX) == [old]
    assert set(here.iterdir()) == before - {old}
    mine.remove()
    assert not mine.path.exists()
    path = other.path
    del other
    assert not path.exists()


def test_a_folder_that_is_removed_as_it_is_made_is_made_again(monkeypatch: pytest.MonkeyPatch):
    made, make = [], tempfile.mkdtemp

    def mkdtemp(**settings) -> str:
        made.append(make(**settings))
        return made[-1]

    lock, raced = scratch._lock, []

    def race(file: Path, flags: int = 0) -> int | None:
        descriptor = lock(file, flags)
        if flags and not raced:
            raced.append(file)
            file.unlink()
            file.parent.rmdir()
        return descriptor

    monkeypatch.setattr(tempfile, "mkdtemp", mkdtemp)
    monkeypatch.setattr(scratch, "_lock", race)
    folder = ScratchFolder(PREFIX)
    assert [folder.path] == [Path(one) for one in made[1:]]
    assert folder.path.is_dir()
