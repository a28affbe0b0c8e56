"""Archives from a server that cuts, stalls, errs and lies: the file that was published, or an error."""

import hashlib
import io
import os
import re
import stat
import threading
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from rich.console import Console

from data_prep import download as module
from data_prep.download import COCO, Archive, Download, download, main
from data_prep.fetching import Expected, fetch
from data_prep.unpacking import unpack
from qdet.errors import ConfigError, DataError

BODY = os.urandom(3 * 2**20 + 17)


class Server(ThreadingHTTPServer):
    """Serves `files`, as badly as `faults` says: one of them per request, then none."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {"/file": BODY}
        self.faults: list = []
        self.requests: list = []
        self.etag = '"one"'
        self.ranges = True

    def handle_error(self, *_):
        """A client that went away is what the tests are about."""

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):
        server, asked = self.server, self.headers.get("Range")
        server.requests.append(asked)
        fault = server.faults.pop(0) if server.faults else None
        body = server.files.get(self.path)
        if isinstance(fault, int):
            self.send_error(fault)
            return
        if body is None:
            self.send_error(404)
            return
        begin = int(re.match(r"bytes=(\d+)-$", asked)[1]) if asked and server.ranges else 0
        if self.headers.get("If-Range", server.etag) != server.etag:
            begin = 0
        if begin and begin >= len(body):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(body)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if begin else 200)
        if begin:
            shown = begin + 5 if fault == "wrong range" else begin
            self.send_header("Content-Range", f"bytes {shown}-{len(body) - 1}/{len(body)}")
        self.send_header("ETag", server.etag)
        self.send_header("Content-Length", str(len(body) - begin))
        self.end_headers()
        sent = body[begin:]
        if isinstance(fault, tuple):
            sent = sent[: fault[1]]
        if fault == "flip":
            sent = sent[:100] + bytes([sent[100] ^ 1]) + sent[101:]
        self.wfile.write(sent)
        if isinstance(fault, tuple) and fault[0] == "stall":
            self.server.stalled.wait(5)
        self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = Server()
    server.stalled = threading.Event()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.stalled.set()
    server.shutdown()
    server.server_close()
    thread.join()


def got(server, folder, expected=None, **settings):
    known = Expected(size=len(BODY), md5=hashlib.md5(BODY).hexdigest())
    return fetch(
        f"{server.url}/file", folder / "file", expected or known, wait=0.001, **{"attempts": 4} | settings
    )


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize(
    "faults",
    [
        [],
        [("cut", 0)],
        [("cut", 1), ("cut", 2**20), ("cut", 2**20 + 1)],
        [500, 503, ("cut", 2**21), 429, 502],
        [("cut", len(BODY) - 1)],
        [("stall", 1000)],
    ],
)
def test_connections_that_break_are_resumed(server, tmp_path, faults, ranges):
    server.faults, server.ranges = list(faults), ranges
    moved = []
    found = got(server, tmp_path, advance=moved.append, timeout=0.5)
    assert (tmp_path / "file").read_bytes() == BODY
    assert found == Expected(size=len(BODY), md5=hashlib.md5(BODY).hexdigest())
    assert sum(moved) == len(BODY)
    assert len(server.requests) == len(faults) + 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]
    cuts = [fault[1] for fault in faults if isinstance(fault, tuple)]
    if ranges and cuts and cuts[-1]:
        assert server.requests[-1] == f"bytes={sum(cuts)}-"  # nothing came twice


def test_another_call_goes_on_where_one_gave_up(server, tmp_path):
    server.faults = [("cut", 12345), 500, 500, 500, 500]
    with pytest.raises(DataError, match="4 times in a row; 12345 bytes are kept, run the same command again"):
        got(server, tmp_path)
    assert not (tmp_path / "file").exists()
    server.faults, server.requests = [], []
    got(server, tmp_path)
    assert server.requests == ["bytes=12345-"]
    assert (tmp_path / "file").read_bytes() == BODY


def test_a_file_that_was_complete_but_not_named_yet_is_not_fetched_again(server, tmp_path):
    (tmp_path / "file.part").write_bytes(BODY)
    got(server, tmp_path)
    assert server.requests == [f"bytes={len(BODY)}-"]
    assert (tmp_path / "file").read_bytes() == BODY


def test_more_than_there_is_begins_again(server, tmp_path):
    (tmp_path / "file.part").write_bytes(BODY + b"more")
    got(server, tmp_path)
    assert (tmp_path / "file").read_bytes() == BODY


def test_a_file_that_changed_meanwhile_is_read_from_its_start(server, tmp_path):
    server.faults = [("cut", 2**20), 500, 500, 500, 500]
    with pytest.raises(DataError):
        got(server, tmp_path)
    new = os.urandom(2**21)
    server.files["/file"], server.etag, server.faults = new, '"two"', []
    got(server, tmp_path, Expected(size=len(new)))
    assert (tmp_path / "file").read_bytes() == new


def test_what_differs_from_what_is_known_is_removed(server, tmp_path):
    server.faults = ["flip"]
    with pytest.raises(DataError, match=r"another file than expected .* has md5"):
        got(server, tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DataError, match=f"has size {len(BODY)}, expected is 7"):
        got(server, tmp_path, Expected(size=7))
    assert list(tmp_path.iterdir()) == []


def test_refusals_are_not_repeated(server, tmp_path):
    server.faults = [403]
    with pytest.raises(DataError, match="the server answers 403"):
        got(server, tmp_path)
    (tmp_path / "file.part").write_bytes(BODY[:10])
    server.faults = ["wrong range"]
    with pytest.raises(DataError, match="asked for bytes from 10, the server sends them from 15"):
        got(server, tmp_path)
    assert len(server.requests) == 2


def test_nobody_there(tmp_path):
    server = Server()
    server.server_close()
    with pytest.raises(DataError, match="refused"):
        got(server, tmp_path)


def zipped(files):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return data.getvalue()


@pytest.fixture
def mirror(server, monkeypatch):
    """A server with tiny archives in place of COCO's, and what they hold."""
    held = {
        "train": {"train2017/1.jpg": BODY[:90000], "train2017/2.jpg": b"2"},
        "val": {"val2017/3.jpg": b"3"},
        "annotations": {"annotations/instances_val2017.json": b"{}"},
    }
    archives = {}
    for part, archive in COCO["2017"].items():
        data = zipped(held[part])
        server.files[f"/{archive.path}"] = data
        known = Expected(size=len(data), md5=hashlib.md5(data).hexdigest())
        archives[part] = replace(archive, expected=known)
    monkeypatch.setitem(module.COCO, "2017", archives)
    return held


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_archives_are_fetched_unpacked_and_removed(server, mirror, tmp_path):
    server.faults = [500, ("cut", 5000)]
    config = Download(coco="2017", to=tmp_path / "coco", server=server.url)
    download(config, wait=0.001)
    there = tree(config.to)
    notes = {f".{name}2017.zip.done" for name in ("train", "val", "annotations_trainval")}
    assert {name for name in there if name not in notes} == {n for files in mirror.values() for n in files}
    assert all(there[name] == data for files in mirror.values() for name, data in files.items())
    server.requests = []
    console = Console(file=io.StringIO(), width=300)
    download(config, console=console)
    assert server.requests == []
    assert console.file.getvalue().count("is already unpacked") == 3


def test_one_part_and_keeping_its_archive(server, mirror, tmp_path):
    config = Download(coco="2017", to=tmp_path, server=server.url, parts=("val",), keep_archives=True)
    download(config)
    assert set(tree(tmp_path)) == {"val2017/3.jpg", "val2017.zip", ".val2017.zip.done"}


def test_an_archive_that_was_there_before_is_compared_too(server, mirror, tmp_path):
    (tmp_path / "val2017.zip").write_bytes(server.files["/zips/val2017.zip"][:-1])
    config = Download(coco="2017", to=tmp_path, server=server.url, parts=("val",))
    with pytest.raises(DataError, match=r"val2017\.zip has size .* remove it and run the command again"):
        download(config)
    (tmp_path / "val2017.zip").write_bytes(server.files["/zips/val2017.zip"])
    download(config)
    assert server.requests == []
    assert (tmp_path / "val2017" / "3.jpg").read_bytes() == b"3"


def test_unpacking_goes_on_where_it_was_killed(tmp_path):
    archive = tmp_path / "a.zip"
    archive.write_bytes(zipped({"a/1": b"one", "a/2": b"two", "a/3": b"three"}))
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1").write_bytes(b"ONE")  # there in its size: not written again
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
    with pytest.raises(DataError, match="no plain file below it; nothing was unpacked"):
        unpack(archive, tmp_path / "here")
    assert tree(tmp_path) == {"a.zip": archive.read_bytes()}


def test_links_are_refused(tmp_path):
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(DataError, match="'link', which is no plain file"):
        unpack(tmp_path / "a.zip", tmp_path / "here")


def test_a_damaged_archive_is_named(tmp_path):
    data = bytearray(zipped({"a": BODY[:50000]}))
    archive = tmp_path / "a.zip"
    for change in (lambda d: d[:-30], lambda d: d[:200] + bytes(50) + d[250:], lambda _: b""):
        archive.write_bytes(change(bytes(data)))
        with pytest.raises(DataError, match=r"a\.zip cannot be unpacked"):
            unpack(archive, tmp_path / "here")
        assert not (tmp_path / "here" / "a").exists()


def test_a_full_disk_is_said_before_anything_is_fetched(server, mirror, tmp_path, monkeypatch):
    huge = Archive(path="zips/val2017.zip", expected=Expected(size=2**62))
    monkeypatch.setitem(module.COCO["2017"], "val", huge)
    with pytest.raises(DataError, match=r"GB free, .* GB are needed to fetch val2017\.zip"):
        download(Download(coco="2017", to=tmp_path, server=server.url, parts=("val",)))
    assert server.requests == []


def test_flags_that_cannot_work():
    with pytest.raises(ConfigError, match="--parts"):
        Download(coco="2017", to="x", parts=())
    with pytest.raises(ConfigError, match="--server"):
        Download(coco="2017", to="x", server="ftp://host")


def test_the_command(server, mirror, tmp_path, capsys):
    main(["--coco", "2017", "--to", str(tmp_path), "--server", server.url, "--parts", "val", "annotations"])
    assert "val2017.zip: 1 files" in capsys.readouterr().out
    assert (tmp_path / "annotations" / "instances_val2017.json").is_file()


def test_published_sizes_are_those_of_the_archives_we_name():
    assert [a.name for a in COCO["2017"].values()] == [
        "train2017.zip",
        "val2017.zip",
        "annotations_trainval2017.zip",
    ]
    assert all(re.fullmatch(r"[0-9a-f]{32}", a.expected.md5) for a in COCO["2017"].values())
