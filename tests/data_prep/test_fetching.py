"""One file from a server that cuts, stalls, errs and lies: the file that was published, or an error."""

import hashlib
import os
import random
import socket
from types import SimpleNamespace

import pytest

from data_prep.downloading.fetch import Expected, fetch
from qdet.errors import DataError

BODY = random.Random(0).randbytes(3 * 2**20 + 17)  # what the server has


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
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
    with pytest.raises(DataError, match="refused"):
        got(SimpleNamespace(url=url), tmp_path)
