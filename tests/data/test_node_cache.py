"""The cache of a node: what leaves it when room is short, who waits for whom, what a kill leaves behind."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from qdet.data.files.cached_files import CachedShards
from qdet.data.files.node_cache import NodeCache, RemoteShard
from qdet.errors import ConfigError, DataError

SIZE = 100_000


@pytest.fixture
def shards(tmp_path: Path, serve) -> tuple[list[RemoteShard], object]:
    """Ten shards of 100 kB behind a server, and the server."""
    folder = tmp_path / "source"
    folder.mkdir()
    server = serve(folder)
    listed = []
    for k in range(10):
        data = random.Random(k).randbytes(SIZE)
        (folder / f"{k}.tar").write_bytes(data)
        listed.append(RemoteShard(f"{server.url}/{k}.tar", SIZE, hashlib.sha256(data).hexdigest()))
    return listed, server


def _held(folder: Path, shards: list[RemoteShard]) -> set[int]:
    here = {file.stem for file in (folder / "shards").glob("*.tar")}
    return {k for k, shard in enumerate(shards) if shard.name in here}


def _read(cache: NodeCache, shard: RemoteShard) -> bytes:
    with os.fdopen(cache.open(shard), "rb") as file:
        return file.read()


def _until(true: Callable[[], bool], seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:
        time.sleep(0.02)
    return true()


def test_the_least_recently_read_shard_is_evicted_first(shards, tmp_path):
    listed, server = shards
    cache = NodeCache(tmp_path / "cache", 3 * SIZE)
    for k in (0, 1, 2, 0, 3):
        assert _read(cache, listed[k]) == (server.folder / f"{k}.tar").read_bytes()
        time.sleep(0.02)  # the order of times of change is the order of reads
    assert _held(tmp_path / "cache", listed) == {0, 2, 3}
    assert server.gets["/0.tar"] == 1


def test_planned_shards_stay_and_prefetching_waits_for_capacity(shards, tmp_path):
    listed, _ = shards
    cache = NodeCache(tmp_path / "cache", 3 * SIZE)
    marks = [cache.want(listed[k]) for k in (0, 1)]
    for k in (0, 1, 2):
        assert cache.fetch_ahead(listed[k])
        time.sleep(0.02)
    assert cache.fetch_ahead(listed[3])  # evicts 2, the newest, which no process needs
    assert _held(tmp_path / "cache", listed) == {0, 1, 3}
    marks.append(cache.want(listed[3]))
    assert not cache.fetch_ahead(listed[4])
    assert _held(tmp_path / "cache", listed) == {0, 1, 3}
    os.close(marks[1])
    assert cache.fetch_ahead(listed[4])
    assert _held(tmp_path / "cache", listed) == {0, 3, 4}


def test_a_sample_needed_now_evicts_even_planned_shards(shards, tmp_path):
    listed, _ = shards
    cache = NodeCache(tmp_path / "cache", 2 * SIZE)
    marks = [cache.want(shard) for shard in listed]
    _read(cache, listed[0])
    time.sleep(0.02)
    _read(cache, listed[1])
    _read(cache, listed[2])
    assert _held(tmp_path / "cache", listed) == {1, 2}
    for descriptor in marks:
        os.close(descriptor)


def test_an_evicted_shard_stays_readable_while_open(shards, tmp_path):
    listed, server = shards
    cache = NodeCache(tmp_path / "cache", SIZE)
    descriptor = cache.open(listed[0])
    _read(cache, listed[1])
    assert _held(tmp_path / "cache", listed) == {1}
    with os.fdopen(descriptor, "rb") as file:
        assert file.read() == (server.folder / "0.tar").read_bytes()


def test_a_shard_larger_than_the_cache_is_refused(shards, tmp_path):
    listed, _ = shards
    with pytest.raises(ConfigError, match=r"--data\.cache-gb 9\.9999e-05 is less than one shard: http"):
        NodeCache(tmp_path / "cache", SIZE - 1).open(listed[0])
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"--data\.cache .* cannot be made"):
        NodeCache(tmp_path / "file", SIZE)


def test_reading_follows_the_plan_through_a_cache_that_is_too_small_for_it(shards, tmp_path):
    """Whatever order is announced and read: right bytes, within the limit, and no thread hangs."""
    listed, server = shards
    content = [(server.folder / f"{k}.tar").read_bytes() for k in range(10)]
    files = CachedShards(listed, NodeCache(tmp_path / "cache", 4 * SIZE))
    largest, stop = [0], threading.Event()

    def watch() -> None:
        while not stop.is_set():
            found = 0
            for file in (tmp_path / "cache" / "shards").iterdir():
                try:
                    found += file.stat().st_size
                except FileNotFoundError:
                    continue
            largest[0] = max(largest[0], found)

    watcher = threading.Thread(target=watch)
    watcher.start()
    chance = random.Random(0)
    order = [k for _ in range(3) for k in chance.sample(range(10), 10)]
    for place, shard in enumerate(order):
        files.will_read(order[place : place + 6])
        offset = chance.randrange(SIZE - 100)
        assert files.read(shard, offset, 100) == content[shard][offset : offset + 100]
    files.close()
    stop.set()
    watcher.join()
    assert largest[0] <= 4 * SIZE + SIZE  # a name that changes while the watcher lists may count twice


def test_shards_no_longer_planned_are_released(shards, tmp_path):
    listed, _ = shards
    cache = NodeCache(tmp_path / "cache", 2 * SIZE)
    files = CachedShards(listed, cache)
    files.will_read([0, 1, 2])
    # Two fetch at the same time: which of the three comes last is not decided.
    assert _until(lambda: len(_held(tmp_path / "cache", listed) & {0, 1, 2}) == 2)
    files.will_read([2, 3])
    assert _until(lambda: _held(tmp_path / "cache", listed) == {2, 3})


def test_a_plan_of_many_small_shards_does_not_run_out_of_open_files(tmp_path):
    listed = [RemoteShard(f"memory://nowhere/{k}.tar", 1, None) for k in range(5000)]
    files = CachedShards(listed, NodeCache(tmp_path / "cache", SIZE))
    before = len(list(Path("/proc/self/fd").iterdir()))
    for first in range(0, 5000, 1000):
        files.will_read(range(first, 5000))
        assert len(list(Path("/proc/self/fd").iterdir())) < before + 300
    files.close()


def test_a_dropped_shard_set_stops_prefetching(shards, tmp_path):
    listed, server = shards
    for k in range(10):
        server.faults[f"/{k}.tar"] += ["slow"]
    files = CachedShards(listed, NodeCache(tmp_path / "cache", 10 * SIZE))
    files.will_read(range(10))
    assert _until(lambda: sum(server.gets.values()) > 0)
    del files
    time.sleep(0.6)  # those that had begun end
    asked = sum(server.gets.values())
    time.sleep(0.4)
    assert sum(server.gets.values()) == asked < 10


_FETCH = """
import sys
from pathlib import Path
from qdet.data.files.node_cache import NodeCache, RemoteShard
url, size, sha256, folder, limit = sys.argv[1:]
NodeCache(Path(folder), int(limit)).open(RemoteShard(url, int(size), sha256))
"""


def _fetching(shard: RemoteShard, folder: Path, limit: int) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    said = (shard.url, str(shard.size), str(shard.sha256), str(folder), str(limit))
    return subprocess.Popen([sys.executable, "-c", _FETCH, *said], env=environment)


def test_a_process_killed_during_a_download_blocks_no_other(shards, tmp_path):
    listed, server = shards
    folder = tmp_path / "cache"
    server.faults["/0.tar"] += ["stall"]
    process = _fetching(listed[0], folder, 2 * SIZE)
    assert _until(lambda: server.gets["/0.tar"] == 1 and bool(list((folder / "shards").glob("*.part"))))
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert [file.stat().st_size for file in (folder / "shards").glob("*.part")] == [SIZE]
    cache = NodeCache(folder, 2 * SIZE)
    for k in (1, 2):  # its room is free again
        _read(cache, listed[k])
    assert _held(folder, listed) == {1, 2}
    assert _read(cache, listed[0]) == (server.folder / "0.tar").read_bytes()
    assert not list((folder / "shards").glob("*.part"))


def test_concurrent_processes_download_a_shard_once(shards, tmp_path):
    listed, server = shards
    server.faults["/0.tar"] += ["slow"]
    running = [_fetching(listed[0], tmp_path / "cache", SIZE) for _ in range(3)]
    assert [process.wait(timeout=60) for process in running] == [0, 0, 0]
    assert server.gets["/0.tar"] == 1


def test_files_of_the_same_name_from_different_places_stay_apart(tmp_path, serve):
    (tmp_path / "source").mkdir()
    server, cache = serve(tmp_path / "source"), NodeCache(tmp_path / "cache", 10 * SIZE)
    found = []
    for split in ("train", "val"):
        (server.folder / split).mkdir()
        data = np.random.default_rng(len(split)).bytes(1000)
        (server.folder / split / "0.tar").write_bytes(data)
        found.append((_read(cache, RemoteShard(f"{server.url}/{split}/0.tar", 1000, None)), data))
    assert all(read == written for read, written in found)
    assert found[0] != found[1]
