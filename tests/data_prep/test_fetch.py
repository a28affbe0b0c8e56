"""One file from a server that cuts off, stalls and sends errors: the published file, or an error."""

import hashlib
import os
import random
import socket
from types import SimpleNamespace

import pytest

from data_prep.downloading.fetch import Expected, fetch
from qdet.errors import DataError

BODY = random.Random(0).randbytes(3 * 2**20 + 17)  # the file on the server


def fetch_file(server, folder, expected=None, **settings):
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
def test_broken_connections_are_resumed(server, tmp_path, faults, ranges):
    server.faults, server.ranges = list(faults), ranges
    moved = []
    found = fetch_file(server, tmp_path, advance=moved.append, timeout=0.5)
    assert (tmp_path / "file").read_bytes() == BODY
    assert found == Expected(size=len(BODY), md5=hashlib.md5(BODY).hexdigest())
    assert sum(moved) == len(BODY)
    assert len(server.requests) == len(faults) + 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]
    cuts = [fault[1] for fault in faults if isinstance(fault, tuple)]
    if ranges and cuts and cuts[-1]:
        assert server.requests[-1] == f"bytes={sum(cuts)}-"  # no byte was sent twice


def test_a_second_call_resumes_where_the_first_gave_up(server, tmp_path):
    server.faults = [("cut", 12345), 500, 500, 500, 500]
    with pytest.raises(DataError, match="4 times in a row; 12345 bytes are kept: run the same command again"):
        fetch_file(server, tmp_path)
    assert not (tmp_path / "file").exists()
    server.faults, server.requests = [], []
    fetch_file(server, tmp_path)
    assert server.requests == ["bytes=12345-"]
    assert (tmp_path / "file").read_bytes() == BODY


def test_a_complete_part_is_not_fetched_again(server, tmp_path):
    (tmp_path / "file.part").write_bytes(BODY)
    fetch_file(server, tmp_path)
    assert server.requests == [f"bytes={len(BODY)}-"]
    assert (tmp_path / "file").read_bytes() == BODY


def test_a_part_longer_than_the_file_restarts(server, tmp_path):
    (tmp_path / "file.part").write_bytes(BODY + b"more")
    fetch_file(server, tmp_path)
    assert (tmp_path / "file").read_bytes() == BODY


def test_a_file_that_changed_meanwhile_restarts(server, tmp_path):
    server.faults = [("cut", 2**20), 500, 500, 500, 500]
    with pytest.raises(DataError):
        fetch_file(server, tmp_path)
    new = os.urandom(2**21)
    server.files["/file"], server.etag, server.faults = new, '"two"', []
    fetch_file(server, tmp_path, Expected(size=len(new)))
    assert (tmp_path / "file").read_bytes() == new


def test_a_wrong_size_or_checksum_is_an_error_and_the_file_removed(server, tmp_path):
    server.faults = ["flip"]
    with pytest.raises(DataError, match=r"not the expected one .* has md5"):
        fetch_file(server, tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DataError, match=f"has size {len(BODY)}, expected 7"):
        fetch_file(server, tmp_path, Expected(size=7))
    assert list(tmp_path.iterdir()) == []


def test_refusals_are_not_retried(server, tmp_path):
    server.faults = [403]
    with pytest.raises(DataError, match="the server answers 403"):
        fetch_file(server, tmp_path)
    (tmp_path / "file.part").write_bytes(BODY[:10])
    server.faults = ["wrong range"]
    with pytest.raises(DataError, match="asked for bytes from 10, the server sends bytes from 15"):
        fetch_file(server, tmp_path)
    assert len(server.requests) == 2


def test_no_server(tmp_path):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    with pytest.raises(DataError, match="refused"):
        fetch_file(SimpleNamespace(url=url), tmp_path)
