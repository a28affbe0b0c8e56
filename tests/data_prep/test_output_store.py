"""Where shards are written: the same bytes behind a URL as in a folder, and never half a file by its name."""

import dataclasses
import errno
import pickle
import re
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from data_prep.coco_to_shards import Conversion, convert
from data_prep.output import open_output, write
from data_prep.verify import Verification, verify
from qdet.errors import ConfigError, DataError
from qdet.storage import Folder
from qdet.storage import network as remote
from qdet.storage import remote as module
from qdet.storage.remote import RemoteFiles


@pytest.fixture
def memory():
    filesystem = fsspec.filesystem("memory")
    yield filesystem
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


@pytest.fixture
def conversion(make_coco, tmp_path):
    root, _ = make_coco(20)
    return Conversion(coco=root, split="train", out=tmp_path / "shards", shard_megabytes=0.01, processes=1)


def _failure_of(conversion):
    try:
        convert(conversion)
    except DataError as error:
        return str(error)
    return ""


def behind(filesystem, path):
    return {name.rpartition("/")[2]: filesystem.cat_file(name) for name in filesystem.find(path)}


def test_a_url_gets_the_bytes_that_a_folder_gets(conversion, memory):
    convert(conversion)
    convert(dataclasses.replace(conversion, out="memory://bucket/coco/train"))
    assert behind(memory, "/bucket/coco/train") == {p.name: p.read_bytes() for p in conversion.out.iterdir()}


def test_a_file_url_is_a_folder(conversion, tmp_path):
    convert(dataclasses.replace(conversion, out=f"file://{tmp_path}/by url"))
    assert open_output(f"file://{tmp_path}/by url") == Folder.open(tmp_path / "by url")
    assert (tmp_path / "by url" / "manifest.json").is_file()


def test_a_broken_upload_leaves_nothing_and_is_resumed(conversion, memory, monkeypatch):
    convert(conversion)
    expected = {p.name: p.read_bytes() for p in conversion.out.iterdir()}
    remote = dataclasses.replace(conversion, out="memory://bucket/train")
    put, puts = MemoryFileSystem.put_file, []

    def breaks(self, local, target, **settings):
        puts.append(target)
        if len(puts) % 5 == 0:
            data = Path(local).read_bytes()
            self.pipe_file(target, data[: len(data) // 2])
            raise OSError(errno.ECONNRESET, "connection reset")
        put(self, local, target, **settings)

    monkeypatch.setattr(MemoryFileSystem, "put_file", breaks)
    failures = []
    while len(failures) < 20:
        failures.append(_failure_of(remote))
        if not failures[-1]:
            break
        there = behind(memory, "/bucket/train")
        assert all(expected[n] == d for n, d in there.items() if n in expected)
        assert "manifest.json" not in there
    assert len(failures) > 3
    assert all(re.search("cannot be written: .*connection reset", said) for said in failures[:-1])
    assert behind(memory, "/bucket/train") == expected  # no leftovers either
    tars = [t for t in puts if ".tar." in t]
    assert len(tars) <= len([n for n in expected if n.endswith(".tar")]) + len(failures)  # not written again


def test_an_upload_that_loses_bytes_is_noticed(memory, monkeypatch):
    put = MemoryFileSystem.put_file

    def loses(self, local, target, **settings):
        put(self, local, target, **settings)
        self.pipe_file(target, self.cat_file(target)[:-1])

    monkeypatch.setattr(MemoryFileSystem, "put_file", loses)
    with pytest.raises(DataError, match="has 2 bytes after an upload of 3"):
        write(open_output("memory://bucket/x"), "name", b"abc")


def _write_half(store):
    with store.writer("z") as file:
        file.write(b"half")
        raise KeyError


@pytest.mark.parametrize("kind", ["local", "remote"])
def test_a_store_lists_reads_replaces_and_removes_files(kind, tmp_path, memory):
    store = open_output(tmp_path / "a" if kind == "local" else "memory://bucket/a")
    assert (store.names(), store.names("sub"), store.size("x")) == ([], [], None)
    with pytest.raises(FileNotFoundError):
        store.read("x")
    write(store, "x", b"one")
    write(store, "sub/y", b"two!")
    write(store, "x", b"three")
    assert (store.names(), store.names("sub"), store.names("sub/")) == (["x"], ["y"], ["y"])
    assert (store.size("x"), store.size("sub/y"), store.size("sub")) == (5, 4, store.size("sub"))
    assert (store.read("x"), store.read("sub/y")) == (b"three", b"two!")
    with store.reader("x") as file:
        assert file.read(2) == b"th"
    with pytest.raises(KeyError):
        _write_half(store)
    assert store.names() == ["x"]
    assert pickle.loads(pickle.dumps(store)).read("x") == b"three"
    store.remove("sub")
    store.remove("x")
    store.remove("x")
    assert (store.names(), store.names("sub")) == ([], [])


def test_object_stores_are_written_to_directly_and_others_by_renaming(memory, tmp_path):
    class Recording(LocalFileSystem):
        def put_file(self, local, target, **settings):
            calls.append("put")
            super().put_file(local, target, **settings)

        def mv(self, source, target, **settings):
            calls.append("mv")
            super().mv(source, target, **settings)

    class Bucket(Recording):
        protocol = ("s3", "s3a")

    for kind, expected in ((Bucket, ["put"]), (Recording, ["put", "mv"])):
        calls: list = []
        filesystem = kind(auto_mkdir=True, skip_instance_cache=True)
        write(Folder("any://x", RemoteFiles(filesystem), str(tmp_path)), "n", b"1")
        assert calls == expected
        assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"n": b"1"}
        (tmp_path / "n").unlink()


@pytest.mark.parametrize("url", ["nonsense://bucket/x"])
def test_an_unknown_kind_of_url_is_refused(conversion, url):
    with pytest.raises(ConfigError, match=r"nonsense.*cannot be opened"):
        convert(dataclasses.replace(conversion, out=url))


def test_another_dataset_behind_the_url_is_left_alone(conversion, memory, make_coco):
    remote = dataclasses.replace(conversion, out="memory://bucket/train")
    convert(remote)
    before = behind(memory, "/bucket/train")
    other, _ = make_coco(8, name="other")
    with pytest.raises(DataError, match="another dataset or of other settings"):
        convert(dataclasses.replace(remote, coco=other))
    assert behind(memory, "/bucket/train") == before


def test_shards_behind_a_url_are_verified(conversion, memory, tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "PAUSES", (0.0, 0.0, 0.0))  # before what does not fit is asked for again
    url = "memory://bucket/train"
    convert(dataclasses.replace(conversion, out=url))
    assert verify(Verification(folder=url, cache=str(tmp_path)))["images"] == 20
    name = next(n for n in memory.find("/bucket/train") if n.endswith("1.tar"))
    whole = memory.cat_file(name)
    memory.pipe_file(name, whole[:700] + bytes([whole[700] ^ 1]) + whole[701:])
    verify(Verification(folder=url, cache=str(tmp_path), fast=True))
    with pytest.raises(DataError, match=r"train-000001\.tar"):
        verify(Verification(folder=url, cache=str(tmp_path)))
    memory.pipe_file(name, whole[:-1])
    with pytest.raises(DataError, match=r"train-000001\.tar has .* bytes instead of"):
        verify(Verification(folder=url, cache=str(tmp_path), fast=True))


def test_uploads_become_visible_only_when_complete():
    assert "s3" in module._SHOWS_WHOLE_UPLOADS
    assert not {"memory", "file", "sftp", "http"} & module._SHOWS_WHOLE_UPLOADS
