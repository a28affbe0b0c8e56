"""Checkpoints of strangers: nothing outside is read or written, and what is wrong is said in words."""

import hashlib
import json
from contextlib import closing
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from qdet.checkpoint import Checkpoint, open_folder, verify
from qdet.checkpoint.reading import peek
from qdet.errors import CheckpointError
from qdet.storage import Folder
from tests.support.small_checkpoints import write

NAMES = [
    "/tmp/qdet-was-here",
    "../../outside.safetensors",
    "rank_00000.aaaa.safetensors/../../x",
    "..\\outside",
    "",
    ".",
    "rank_00000.aa/aa.safetensors",
    "state.aaaa.json\0x",
    "rank_00000.aaaa.safetensors\n",
    "other.txt",
]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "served" / "run" / "step_000300"
    write(open_folder(folder))
    return folder


@pytest.fixture
def url(tmp_path: Path, checkpoint: Path):
    """The checkpoint behind a server."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "served")))
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/run/step_000300"
    server.shutdown()
    server.server_close()


def change(checkpoint: Path, edit) -> None:
    """Edit the manifest as its author would: with the digest that belongs to it."""
    file = checkpoint / "manifest.json"
    content = json.loads(file.read_text())
    del content["digest"]
    edit(content)

    def render(value) -> bytes:
        return json.dumps(value, indent=1, sort_keys=True).encode()

    file.write_bytes(render(content | {"digest": hashlib.sha256(render(content)).hexdigest()}))


def print_of(content: bytes) -> dict:
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_leads_elsewhere_is_refused_before_anything_is_touched(name, url, checkpoint, tmp_path):
    victim = tmp_path / "served" / "outside.safetensors"
    victim.write_text("mine")
    change(checkpoint, lambda content: content["files"].update({name: print_of(b"theirs")}))
    before = tree(tmp_path)
    for where in (url, checkpoint):
        for read in (Checkpoint, verify, peek):
            with pytest.raises(CheckpointError, match="no file of a checkpoint"):
                read(open_folder(where))
    assert tree(tmp_path) == before
    assert not Path("/tmp/qdet-was-here").exists()


@pytest.mark.parametrize("attempt", ["../../x", "/x", "", "a" * 65, "a.b", 7])
def test_letters_of_an_attempt_that_lead_elsewhere_are_refused(attempt, url, checkpoint):
    change(checkpoint, lambda content: content.update(attempt=attempt))
    with pytest.raises(CheckpointError, match="is damaged"):
        Checkpoint(open_folder(url))


def test_no_more_is_read_than_the_manifest_lists(url, checkpoint, monkeypatch):
    name = next(path.name for path in checkpoint.glob("rank_*.safetensors"))
    monkeypatch.setattr("qdet.checkpoint.manifest.CHUNK", 1024)
    read = []

    class Endless:
        def read(self, size: int) -> bytes:
            read.append(size)
            return b"x" * size

        def close(self) -> None:
            pass

    real = Folder.reader

    def reader(self, asked, **options):
        return closing(Endless()) if asked == name else real(self, asked, **options)

    monkeypatch.setattr(Folder, "reader", reader)
    with pytest.raises(CheckpointError, match=f"{name} is damaged"):
        Checkpoint(open_folder(url))
    assert sum(read) <= (checkpoint / name).stat().st_size + 2 * 1024


def test_a_manifest_without_end_is_refused(checkpoint, monkeypatch):
    monkeypatch.setattr("qdet.checkpoint.manifest.LONGEST", 100)
    with pytest.raises(CheckpointError, match="more than 100 bytes"):
        verify(open_folder(checkpoint))


def test_deep_json_is_damage(checkpoint):
    (checkpoint / "manifest.json").write_text("[" * 100_000 + "]" * 100_000)
    with pytest.raises(CheckpointError, match="is damaged"):
        verify(open_folder(checkpoint))
