"""Shards from behind URLs: the same samples as from a folder, whatever the server does meanwhile."""

import dataclasses
import json
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from qdet.data.augment import AugmentConfig
from qdet.data.loading.planned_stream import TrainStream
from qdet.data.loading.stream_config import StreamConfig
from qdet.data.shards.locate import Access
from qdet.data.shards.shard_set import ShardSet
from qdet.errors import DataError
from qdet.storage import network as remote


@pytest.fixture
def access(tmp_path: Path) -> Access:
    return Access(cache=str(tmp_path / "cache"), cache_gb=1.0)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PAUSES", (0.0, 0.0, 0.0))


def _samples(shards: ShardSet) -> list[tuple[bytes, dict]]:
    return [(shards.read_image(row), shards.read_annotation(row)) for row in range(len(shards))]


def _urls(folder: Path) -> list[str]:
    return ["/" + shard["url"] for shard in json.loads((folder / "manifest.json").read_text())["shardlist"]]


def test_http_gives_the_folders_samples_and_fetches_every_shard_once(shards_folder, serve, access):
    server = serve(shards_folder)
    here, there = ShardSet.open(shards_folder), ShardSet.open(server.url, access)
    assert _samples(there) == _samples(here)
    assert (there.digest, there.categories, len(there)) == (here.digest, here.categories, len(here))
    assert there.name_of(0).startswith(server.url + "/train-000000.tar, sample 0000000000")
    again = ShardSet.open(server.url, access)
    assert _samples(again) == _samples(here)
    assert {url: server.gets[url] for url in _urls(shards_folder)} == dict.fromkeys(_urls(shards_folder), 1)
    assert server.gets["/index.npz"] == 1


@pytest.mark.parametrize("fault", ["500", "cut", "short", "long", "flip", "slow"])
def test_a_failing_server_is_retried(shards_folder, serve, access, fault):
    server = serve(shards_folder)
    for url in ["/manifest.json", *_urls(shards_folder)]:
        # A manifest brings no checksum of its own: a mended answer cannot be told from a changed dataset.
        server.faults[url] += (
            [] if url == "/manifest.json" and fault in ("short", "long", "flip") else [fault]
        )
    assert _samples(ShardSet.open(server.url, access)) == _samples(ShardSet.open(shards_folder))
    tries = 1 if fault == "slow" else 2
    assert all(server.gets[url] == tries for url in _urls(shards_folder))


def test_a_stalled_server_is_retried(shards_folder, serve, access, monkeypatch):
    monkeypatch.setattr(remote, "STALLED", 0.3)
    server = serve(shards_folder)
    url = _urls(shards_folder)[0]
    server.faults[url] += ["stall"]
    assert _samples(ShardSet.open(server.url, access)) == _samples(ShardSet.open(shards_folder))
    assert server.gets[url] == 2


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("500", "cannot be read: .*500"),
        ("cut", "cannot be read"),
        ("short", r"it ended after \d+ of \d+ bytes"),
        ("long", r"it has more than the \d+ bytes that are listed"),
        ("flip", "its sha256 is not the one that is listed"),
    ],
)
def test_a_server_that_keeps_failing_is_named_with_the_shard(shards_folder, serve, access, fault, said):
    server = serve(shards_folder)
    url = _urls(shards_folder)[0]
    server.faults[url] += [fault] * 100
    shards = ShardSet.open(server.url, access)
    with pytest.raises(DataError, match=f"{server.url}{url}.*{said}"):
        shards.read_image(0)
    assert server.gets[url] == 4
    assert not list((access.folder / "shards").glob("*.tar")) + list(
        (access.folder / "shards").glob("*.part")
    )
    shards.read_image(len(shards) - 1)  # the others are none the worse


def test_missing_and_forbidden_files_are_not_retried(shards_folder, serve, access):
    server = serve(shards_folder)
    first, second = _urls(shards_folder)[:2]
    (shards_folder / first.strip("/")).unlink()
    server.faults[second] += ["403"] * 100
    shards = ShardSet.open(server.url, access)
    row = int((shards.index.shard == 1).argmax())
    with pytest.raises(DataError, match=f"{server.url}{first} is not there"):
        shards.read_image(0)
    with pytest.raises(DataError, match=f"{server.url}{second} cannot be read: 403"):
        shards.read_image(row)
    assert (server.gets[first], server.gets[second]) == (1, 1)
    with pytest.raises(DataError, match=r"no manifest\.json.*ones by a pattern such as"):
        ShardSet.open(server.url + "/nowhere", access)


def test_an_index_of_another_dataset_is_refused(shards_folder, serve, access):
    (shards_folder / "index.npz").write_bytes(b"other")
    with pytest.raises(DataError, match=r"index\.npz does not belong to .*manifest\.json"):
        ShardSet.open(serve(shards_folder).url, access)


def test_a_dataset_that_is_uploaded_again_is_fetched_again(shards_folder, serve, access, make_coco, tmp_path):
    from data_prep.coco_to_shards import Conversion, convert

    server = serve(shards_folder)
    before = _samples(ShardSet.open(server.url, access))
    root, _ = make_coco(23, name="other")
    server.folder = tmp_path / "new"
    convert(Conversion(coco=root, split="train", out=server.folder, shard_megabytes=0.012, processes=1))
    after = _samples(ShardSet.open(server.url, access))
    assert after == _samples(ShardSet.open(server.folder))
    assert after != before


def test_damaged_cache_files_are_downloaded_again(shards_folder, serve, access):
    server = serve(shards_folder)
    good = _samples(ShardSet.open(server.url, access))
    flipped, cut = sorted((access.folder / "shards").glob("*.tar"))[:2]
    data = bytearray(flipped.read_bytes())
    data[600:4000] = bytes(3400)
    flipped.write_bytes(data)
    cut.write_bytes(cut.read_bytes()[:-1])
    assert _samples(ShardSet.open(server.url, access)) == good


def test_shards_are_downloaded_ahead_of_reading(shards_folder, serve, access):
    server = serve(shards_folder)
    shards = ShardSet.open(server.url, access)
    shards.will_read(range(len(shards)))
    cached = access.folder / "shards"
    deadline = time.monotonic() + 20
    while len(list(cached.glob("*.tar"))) < len(_urls(shards_folder)) and time.monotonic() < deadline:
        time.sleep(0.02)
    asked = dict(server.gets)
    assert {url for url in asked if url.endswith(".tar")} == set(_urls(shards_folder))
    assert _samples(shards) == _samples(ShardSet.open(shards_folder))
    assert dict(server.gets) == asked


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_training_reads_the_same_batches_through_a_small_cache(shards_folder, serve, access, kind):
    server = serve(shards_folder)
    sizes = [file.stat().st_size for file in shards_folder.glob("*.tar")]
    assert len(sizes) > 3
    small = dataclasses.replace(access, cache_gb=2.5 * max(sizes) / 1e9)
    batches = []
    augment = AugmentConfig(sizes=(32, 48), max_size=64)
    here, there = ShardSet.open(shards_folder), ShardSet.open(server.url, small)
    for shards, how in ((here, "threads"), (there, kind)):
        stream = TrainStream(shards, augment, StreamConfig(batch_size=4, seed=1, readers=1, reader_kind=how))
        batches.append([batch for (batch,) in stream.steps(3, 2 * stream.steps_per_epoch)])
    for one, other in zip(*batches, strict=True):
        assert torch.equal(one.image_ids, other.image_ids)
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.targets.boxes_xyxy, other.targets.boxes_xyxy)


def test_an_unpickled_shard_set_opens_its_files_once(shards_folder, serve, access):
    server = serve(shards_folder)
    shards = ShardSet.open(server.url, access)
    sent = pickle.dumps(shards)
    assert len(sent) < 1000
    first, second = pickle.loads(sent), pickle.loads(sent)
    assert first is second
    assert first.read_image(3) == shards.read_image(3)


def test_memory_and_file_urls_are_read_too(shards_folder, access):
    import fsspec

    store = fsspec.filesystem("memory")
    for file in shards_folder.iterdir():
        if file.is_file():
            store.pipe_file(f"/bucket/coco/{file.name}", file.read_bytes())
    try:
        here = _samples(ShardSet.open(shards_folder))
        assert _samples(ShardSet.open("memory://bucket/coco", access)) == here
        assert _samples(ShardSet.open(f"file://{shards_folder}", access)) == here
    finally:
        store.rm("/bucket", recursive=True)


def test_a_bucket_gives_the_folders_samples(shards_folder, access, bucket):
    import boto3

    client = boto3.client("s3")
    for file in shards_folder.iterdir():
        client.upload_file(str(file), "shelf", f"coco/train/{file.name}")
    here = ShardSet.open(shards_folder)
    assert _samples(ShardSet.open(f"{bucket}/coco/train", access)) == _samples(here)
    with pytest.raises(DataError, match="s3://shelf/nowhere"):
        ShardSet.open(f"{bucket}/nowhere", access)
    client.delete_object(Bucket="shelf", Key="coco/train/manifest.json")
    names = shards_folder.parent / "coco" / "annotations" / "instances_train.json"
    listed = ShardSet.open(  # scanned: S3 can list what there is
        f"{bucket}/coco/train", dataclasses.replace(access, categories=str(names))
    )
    assert [image for image, _ in _samples(listed)] == [image for image, _ in _samples(here)]
    client.put_object(Bucket="shelf", Key="coco/train/.parts/plan", Body=b"")
    with pytest.raises(DataError, match="conversion that did not finish"):
        ShardSet.open(f"{bucket}/coco/train", access)


def test_several_processes_share_one_download(shards_folder, serve, access):
    server = serve(shards_folder)
    for url in _urls(shards_folder):
        server.faults[url] += ["slow"]
    program = (
        "import sys, hashlib\n"
        "from qdet.data.shards.locate import Access\n"
        "from qdet.data.shards.shard_set import ShardSet\n"
        "shards = ShardSet.open(sys.argv[1], Access(cache=sys.argv[2], cache_gb=1.0))\n"
        "shards.will_read(range(len(shards)))\n"
        "print(hashlib.sha256(b''.join(map(shards.read_image, range(len(shards))))).hexdigest())\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = (sys.executable, "-c", program, server.url, access.cache)
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(3)
    ]
    said = {process.communicate(timeout=120)[0] for process in running}
    assert len(said) == 1
    assert [process.returncode for process in running] == [0, 0, 0]
    assert all(server.gets[url] == 1 for url in _urls(shards_folder))
    assert server.gets["/index.npz"] == 1


def test_a_cache_smaller_than_a_plans_window_is_reported_once_with_the_size_needed(
    shards_folder, serve, access, capsys, monkeypatch
):
    """Held against a walk through the plan by hand, in windows of two announcements of one step each."""
    monkeypatch.setattr("qdet.data.loading.planned_stream.ANNOUNCED", 1)
    monkeypatch.setattr("qdet.data.loading.planned_stream.SURVEYED", 99)  # the whole epoch
    server = serve(shards_folder)
    whole = ShardSet.open(server.url, access)
    small = AugmentConfig(sizes=(32,), max_size=64)
    plan = TrainStream(whole, small, StreamConfig(batch_size=4, seed=1)).plan(0).whole()
    sizes = [shard["filesize"] for shard in whole.manifest["shardlist"]]
    needed = 0
    for begin in range(0, len(plan.rows), 2):
        read = {int(whole.index.shard[row]) for step in plan.rows[begin : begin + 2] for row in step}
        needed = max(needed, sum(sizes[shard] for shard in read))
    for room, told in ((needed, 0), (needed - 1, 1)):
        shards = ShardSet.open(server.url, dataclasses.replace(access, cache_gb=room / 1e9))
        for rank in range(2):
            list(
                TrainStream(shards, small, StreamConfig(batch_size=4, seed=1, rank=rank, world_size=2)).steps(
                    0, 12
                )
            )
        said = capsys.readouterr().out
        assert said.count("fetched again and again; 0.1 would do") == told
        assert said.count(f"the {needed / 1e9:.3g} GB of shards that 2 steps of the plan read from") == told
    list(TrainStream(ShardSet.open(shards_folder), small, StreamConfig(batch_size=4, seed=1)).steps(0, 2))
    assert not capsys.readouterr().out
