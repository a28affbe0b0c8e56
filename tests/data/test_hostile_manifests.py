"""Manifests of strangers: behind a URL they name what lies beside them, and nothing else."""

import json
from pathlib import Path

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qdet.data.shards.locate import Access, locate
from qdet.data.shards.manifest import digest_of
from qdet.data.shards.shard_set import ShardSet
from qdet.errors import DataError
from qdet.storage.urls import is_below

BASE = "memory://strangers/set"


@pytest.fixture
def publish(demo_shards: Path):
    """Publish a dataset whose manifest names its first shard as given; returns its address."""
    files = fsspec.filesystem("memory")

    def put(name: str) -> str:
        manifest = json.loads((demo_shards / "val" / "manifest.json").read_text())
        original, manifest["shardlist"][0]["url"] = manifest["shardlist"][0]["url"], name
        manifest["digest"] = digest_of(manifest["categories"], manifest["shardlist"])
        for file in (demo_shards / "val").iterdir():
            if file.is_file():
                files.pipe(f"/strangers/set/{file.name}", file.read_bytes())
                files.pipe(f"/friends/{file.name}", file.read_bytes())
        files.pipe("/strangers/set/manifest.json", json.dumps(manifest).encode())
        return original

    yield put
    files.rm("/strangers", recursive=True)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("/etc/passwd", "names /etc/passwd, which is outside of it, on this machine"),
        ("file:///etc/passwd", "names /etc/passwd, which is outside of it, on this machine"),
        ("../other/a.tar", "names a shard '../other/a.tar' outside of it"),
        ("http://169.254.169.254/latest/a.tar", "--data.allow-hosts 169.254.169.254 allows it"),
        ("memory://strangers/set/../../other/a.tar", "is outside of it; --data.allow-hosts strangers"),
        ("memory://strangers/set/%2e%2e/a.tar", "is outside of it"),
        ("memory://strangers/settings/a.tar", "is outside of it"),
        ("pipe:touch /tmp/qdet-was-here", "commands are not run here"),
    ],
)
def test_what_is_elsewhere_is_refused(name: str, says: str, publish, tmp_path: Path):
    publish(name)
    access = Access(cache=str(tmp_path))
    for open_ in (locate, ShardSet.open):
        with pytest.raises(DataError, match=says.replace(".", r"\.")):
            open_(BASE, access)
    assert not Path("/tmp/qdet-was-here").exists()


def test_what_is_beside_it_or_allowed_is_read(publish, demo_shards: Path, tmp_path: Path):
    access = Access(cache=str(tmp_path), allow_hosts=("friends",))
    name = publish("x.tar")
    expected = ShardSet.open(demo_shards / "val").read_image(0)
    for given_ in (name, f"{BASE}/{name}", f"memory://friends/{name}"):
        publish(given_)
        assert ShardSet.open(BASE, access).read_image(0) == expected


PARTS = st.lists(st.sampled_from(["a", "b", "..", ".", "%2e%2e", "a.tar", ""]), max_size=5)


@given(PARTS, PARTS)
def test_below_is_what_a_literal_walk_says(folder: list[str], path: list[str]):
    base, url = f"https://host/{'/'.join(folder)}", f"https://host/{'/'.join(path)}"
    above = [part.replace("%2e", ".") for part in base.rstrip("/").split("/")]
    parts = [part.replace("%2e", ".") for part in url.split("/")]
    walked = parts[: len(above)] == above and len(parts) > len(above) and ".." not in parts
    assert is_below(base, url) == walked
