"""COCO's archives: fetched, checked against their published size and MD5, and unpacked safely."""

import hashlib
import io
import os
import re
import stat
import zipfile
from dataclasses import replace

import pytest
from rich.console import Console

from data_prep import download as module
from data_prep.download import COCO, Archive, Download, download, main
from data_prep.downloading.fetch import Expected
from data_prep.downloading.unpack import unpack
from qdet.errors import ConfigError, DataError

BODY = os.urandom(90000)


def zipped(files):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return data.getvalue()


@pytest.fixture
def mirror(server, monkeypatch):
    """A server with tiny archives in place of COCO's, and their content."""
    content = {
        "train": {"train2017/1.jpg": BODY[:90000], "train2017/2.jpg": b"2"},
        "val": {"val2017/3.jpg": b"3"},
        "annotations": {"annotations/instances_val2017.json": b"{}"},
    }
    archives = {}
    for part, archive in COCO["2017"].items():
        data = zipped(content[part])
        server.files[f"/{archive.path}"] = data
        known = Expected(size=len(data), md5=hashlib.md5(data).hexdigest())
        archives[part] = replace(archive, expected=known)
    monkeypatch.setitem(module.COCO, "2017", archives)
    return content


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_archives_are_fetched_unpacked_and_removed(server, mirror, tmp_path):
    server.faults = [500, ("cut", 5000)]
    config = Download(coco="2017", to=tmp_path / "coco", server=server.url)
    download(config, wait=0.001)
    there = tree(config.to)
    markers = {f".{name}2017.zip.done" for name in ("train", "val", "annotations_trainval")}
    assert {name for name in there if name not in markers} == {n for files in mirror.values() for n in files}
    assert all(there[name] == data for files in mirror.values() for name, data in files.items())
    server.requests = []
    console = Console(file=io.StringIO(), width=300)
    download(config, console=console)
    assert server.requests == []
    assert console.file.getvalue().count("is already unpacked") == 3


def test_one_part_with_its_archive_kept(server, mirror, tmp_path):
    config = Download(coco="2017", to=tmp_path, server=server.url, parts=("val",), keep_archives=True)
    download(config)
    assert set(tree(tmp_path)) == {"val2017/3.jpg", "val2017.zip", ".val2017.zip.done"}


def test_an_archive_already_there_is_checked_too(server, mirror, tmp_path):
    (tmp_path / "val2017.zip").write_bytes(server.files["/zips/val2017.zip"][:-1])
    config = Download(coco="2017", to=tmp_path, server=server.url, parts=("val",))
    with pytest.raises(DataError, match=r"val2017\.zip has size .* remove it and run the command again"):
        download(config)
    (tmp_path / "val2017.zip").write_bytes(server.files["/zips/val2017.zip"])
    download(config)
    assert server.requests == []
    assert (tmp_path / "val2017" / "3.jpg").read_bytes() == b"3"


def test_unpacking_resumes_after_a_kill(tmp_path):
    archive = tmp_path / "a.zip"
    archive.write_bytes(zipped({"a/1": b"one", "a/2": b"two", "a/3": b"three"}))
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1").write_bytes(b"ONE")  # full size: not written again
    (tmp_path / "a" / "2").write_bytes(b"t")
    (tmp_path / "a" / ".3.tmp-0123abcd").write_bytes(b"th")
    moved = []
    assert unpack(archive, tmp_path, advance=moved.append) == 3
    assert sum(moved) == 11
    assert tree(tmp_path / "a") == {"1": b"ONE", "2": b"two", "3": b"three"}


@pytest.mark.parametrize("name", ["../out", "/etc/out", "a/../../out", "a\\..\\out"])
def test_names_that_lead_out_of_the_folder_are_refused(tmp_path, name):
    archive = tmp_path / "a.zip"
    archive.write_bytes(zipped({"good": b"1", name: b"2"}))
    with pytest.raises(DataError, match="not a plain file below it; nothing was unpacked"):
        unpack(archive, tmp_path / "here")
    assert tree(tmp_path) == {"a.zip": archive.read_bytes()}


def test_links_are_refused(tmp_path):
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(DataError, match="'link', which is not a plain file"):
        unpack(tmp_path / "a.zip", tmp_path / "here")


def test_a_damaged_archive_is_named(tmp_path):
    data = bytearray(zipped({"a": BODY[:50000]}))
    archive = tmp_path / "a.zip"
    for change in (lambda d: d[:-30], lambda d: d[:200] + bytes(50) + d[250:], lambda _: b""):
        archive.write_bytes(change(bytes(data)))
        with pytest.raises(DataError, match=r"a\.zip cannot be unpacked"):
            unpack(archive, tmp_path / "here")
        assert not (tmp_path / "here" / "a").exists()


def test_a_full_disk_is_reported_before_anything_is_fetched(server, mirror, tmp_path, monkeypatch):
    huge = Archive(path="zips/val2017.zip", expected=Expected(size=2**62))
    monkeypatch.setitem(module.COCO["2017"], "val", huge)
    with pytest.raises(DataError, match=r"GB free, .* GB are needed to fetch val2017\.zip"):
        download(Download(coco="2017", to=tmp_path, server=server.url, parts=("val",)))
    assert server.requests == []


def test_invalid_settings_are_refused_by_flag():
    with pytest.raises(ConfigError, match="--parts"):
        Download(coco="2017", to="x", parts=())
    with pytest.raises(ConfigError, match="--server"):
        Download(coco="2017", to="x", server="ftp://host")


def test_the_command_fetches_parts(server, mirror, tmp_path, capsys):
    main(["--coco", "2017", "--to", str(tmp_path), "--server", server.url, "--parts", "val", "annotations"])
    assert "val2017.zip: 1 file in" in capsys.readouterr().out
    assert (tmp_path / "annotations" / "instances_val2017.json").is_file()


def test_published_archives_have_names_and_checksums():
    assert [a.name for a in COCO["2017"].values()] == [
        "train2017.zip",
        "val2017.zip",
        "annotations_trainval2017.zip",
    ]
    assert all(re.fullmatch(r"[0-9a-f]{32}", a.expected.md5) for a in COCO["2017"].values())
