"""A `--data.cache` of several users: it works where all may write, and else says why not."""

import hashlib
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qdet.data.files.node_cache import RemoteShard

SIZE = 50_000
ANN, BOB, STAFF = 61_001, 61_002, 61_000
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as several users")
READ = """
import os, sys, tempfile
from pathlib import Path
from qdet.data.files.cached_files import CachedShards
from qdet.data.files.node_cache import NodeCache, RemoteShard
from qdet.errors import QdetError
user, group, folder, limit, *urls = sys.argv[1:]
shards = [RemoteShard(url, int(size), sha) for url, size, sha in (one.split("|") for one in urls)]
with tempfile.TemporaryDirectory() as warm:  # the user may not read the modules that this imports
    CachedShards(shards, NodeCache(Path(warm), int(limit))).read(0, 0, 1)
os.setgroups([])
os.setgid(int(group))
os.setuid(int(user))
os.umask(0o077)
try:
    files = CachedShards(shards, NodeCache(Path(folder), int(limit)))
    for k in range(len(shards)):
        files.will_read([k])
        print(sum(files.read(k, 0, shards[k].size)), flush=True)
except QdetError as error:
    sys.exit(str(error))
"""
Read = Callable[..., subprocess.CompletedProcess]


@pytest.fixture
def shards(tmp_path: Path, serve) -> list[RemoteShard]:
    """Four shards behind a server."""
    (tmp_path / "source").mkdir()
    server = serve(tmp_path / "source")
    found = []
    for k in range(4):
        data = random.Random(k).randbytes(SIZE)
        (tmp_path / "source" / f"{k}.tar").write_bytes(data)
        found.append(RemoteShard(f"{server.url}/{k}.tar", SIZE, hashlib.sha256(data).hexdigest()))
    return found


@pytest.fixture
def cache() -> Iterator[Path]:
    """A folder that all users reach."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder) / "cache"


@pytest.fixture
def read(cache: Path) -> Read:
    """Read shards as a user, with room for two."""

    def run(user: int, *wanted: RemoteShard) -> subprocess.CompletedProcess:
        said = [f"{one.url}|{one.size}|{one.sha256}" for one in wanted]
        command = [sys.executable, "-c", READ, str(user), str(STAFF), str(cache), str(2 * SIZE), *said]
        settings = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
        return subprocess.run(command, env=settings, capture_output=True, text=True, timeout=120, check=False)

    return run


def here(cache: Path, shards: list[RemoteShard]) -> set[int]:
    return {k for k, one in enumerate(shards) if (cache / "shards" / f"{one.name}.tar").exists()}


def sums(*numbers: int) -> list[int]:
    return [sum(random.Random(k).randbytes(SIZE)) for k in numbers]


def test_a_folder_of_a_group_is_shared_whatever_the_umask(cache, shards, read):
    cache.mkdir()
    os.chown(cache, ANN, STAFF)
    cache.chmod(0o2775)
    first = read(ANN, *shards[:2])
    assert (first.returncode, list(map(int, first.stdout.split()))) == (0, sums(0, 1)), first.stderr
    second = read(BOB, shards[1], shards[2])
    assert (second.returncode, list(map(int, second.stdout.split()))) == (0, sums(1, 2)), second.stderr
    assert here(cache, shards) == {1, 2}  # evicted Ann's oldest
    for file in (cache / "shards").iterdir():
        assert (file.stat().st_mode & 0o777, file.stat().st_gid) == (0o664, STAFF), file


@pytest.mark.slow
def test_where_only_owners_may_remove_each_evicts_what_is_its_own(cache, shards, read):
    cache.mkdir()
    cache.chmod(0o1777)
    assert read(ANN, shards[0]).returncode == 0
    found = read(BOB, *shards)
    assert (found.returncode, list(map(int, found.stdout.split()))) == (0, sums(0, 1, 2, 3)), found.stderr
    assert here(cache, shards) == {0, 3}
    assert read(ANN, shards[0]).returncode == 0
    full = read(BOB + 1, shards[1])
    assert full.returncode == 1
    assert "is full, and 0.0001 GB of it are other users', who alone may remove them" in full.stderr


def test_the_folder_of_one_user_is_named_to_another(cache, shards, read):
    cache.mkdir()
    os.chown(cache, ANN, STAFF)
    cache.chmod(0o755)
    assert read(ANN, shards[0]).returncode == 0
    refused = read(BOB, shards[0])
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1, refused.stderr
    assert f"belongs to user {ANN}, and user {BOB} may not write there" in refused.stderr
    assert "chgrp -R GROUP" in refused.stderr


@pytest.mark.slow
def test_the_advice_that_is_given_helps(cache, shards, read):
    cache.mkdir()
    os.chown(cache, ANN, ANN)
    cache.chmod(0o755)
    assert read(ANN, shards[0]).returncode == 0
    assert read(BOB, shards[0]).returncode == 1
    subprocess.run(["chgrp", "-R", str(STAFF), str(cache)], check=True)
    subprocess.run(["chmod", "-R", "g+rwXs", str(cache)], check=True)
    found = read(BOB, *shards)
    assert (found.returncode, list(map(int, found.stdout.split()))) == (0, sums(0, 1, 2, 3)), found.stderr


def test_a_folder_that_cannot_be_made_is_named(cache, shards, read):
    refused = read(BOB, shards[0])
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert "cannot be made: Permission denied; name another folder" in refused.stderr
