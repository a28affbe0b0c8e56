"""The promise: what a step holds is a function of dataset, seed, epoch and global batch size alone.

Ordered lists are compared, never sorted ones, and pixels, boxes and ids by their hashes.
"""

import hashlib
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.coco_to_shards import Conversion, convert
from qdet.data.augment import AugmentConfig
from qdet.data.files import local_files as read
from qdet.data.loading.planned_stream import TrainStream
from qdet.data.loading.stream_config import StreamConfig
from qdet.data.plan.order import Order, share
from qdet.data.shards.index import COLUMNS, Index, index_from_file
from qdet.data.shards.manifest import digest_of
from qdet.data.shards.shard_set import ShardSet

SMALL = AugmentConfig(sizes=(24, 32, 40), max_size=64, crop=True, crop_sizes=(32, 48), crop_range=(20, 30))
PUBLISHED = AugmentConfig()
WORLDS = (1, 2, 3, 4, 8, 16)


@st.composite
def orders(draw, batches=(16, 48)):
    """An order over a dataset of any size that has at least a batch, by any settings."""
    batch = draw(st.sampled_from(batches))
    n = draw(st.integers(batch, 6 * batch))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    columns = {name: rng.integers(100, 700, n).astype(kind) for name, kind in COLUMNS.items()}
    columns["image_id"] = rng.permutation(n).astype(np.int64)
    return Order(
        index=Index(**columns),
        augment=draw(st.sampled_from([SMALL, PUBLISHED])),
        batch_size=batch,
        seed=draw(st.integers(0, 2**63)),
        tail=draw(st.sampled_from(["drop", "wrap"])),
        by_size=draw(st.booleans()),
    )


def global_batches(order, first, last, world):
    """Global batches put together again from what each of `world` workers would read."""
    ranks = [
        [share(step.rows, rank=rank, world_size=world).tolist() for step in order.steps(first, last)]
        for rank in range(world)
    ]
    assert len({len(steps) for steps in ranks}) == 1  # no rank waits for a step that another does not make
    assert len({len(rows) for steps in ranks for rows in steps}) <= 1
    return [[row for rows in step for row in rows] for step in zip(*ranks, strict=True)]


@settings(deadline=None, max_examples=40)
@given(orders(), st.data())
def test_any_number_of_workers_reads_the_same_from_any_step(order, data):
    each = order.steps_per_epoch
    whole = [rows.tolist() for epoch in range(3) for rows in order.plan(epoch).whole().rows]
    first = data.draw(st.integers(0, 3 * each))
    last = data.draw(st.integers(first, 3 * each))
    for world in WORLDS:
        if order.batch_size % world == 0:
            assert global_batches(order, first, last, world) == whole[first:last]
    for epoch in range(3):
        rows = [row for batch in whole[epoch * each : (epoch + 1) * each] for row in batch]
        read_once, n = set(rows), len(order.index)
        if order.tail == "drop":
            assert len(rows) == len(read_once) == n - n % order.batch_size
        else:
            assert read_once == set(range(n))
            assert len(rows) == n + -n % order.batch_size


@settings(deadline=None, max_examples=25)
@given(orders(batches=(12,)), st.integers(1, 40), st.data())
def test_changing_the_number_of_workers_mid_epoch_keeps_the_order(order, steps, data):
    whole = global_batches(order, 0, steps, 1)
    found, step = [], 0
    while step < steps:
        until = data.draw(st.integers(step + 1, steps))
        found += global_batches(order, step, until, data.draw(st.sampled_from([1, 2, 3, 4, 6, 12])))
        step = until
    assert found == whole


def hashes_of(batch):
    """One hash per image of everything that training sees of it, batch padding included."""
    found = []
    for i, (boxes, labels) in enumerate(batch.targets.per_image()):
        content = hashlib.sha256(batch.images[i].contiguous().numpy().tobytes())
        for tensor in (boxes, labels, batch.sizes_hw[i], batch.original_hw[i], batch.image_ids[i]):
            content.update(tensor.numpy().tobytes())
        found.append(content.hexdigest())
    return found


def seen(shards, first, last, *, world=1, accumulation=1, readers=1, batch_size=48):
    """Hashes of the images of global steps, in order, gathered from all workers."""
    steps = [[] for _ in range(first, last)]
    for rank in range(world):
        stream = TrainStream(
            shards,
            SMALL,
            StreamConfig(
                batch_size=batch_size,
                seed=4,
                rank=rank,
                world_size=world,
                accumulation=accumulation,
                readers=readers,
            ),
        )
        for step, batches in zip(steps, stream.steps(first, last), strict=True):
            assert [len(batch) for batch in batches] == [batch_size // world // accumulation] * accumulation
            step += [image for batch in batches for image in hashes_of(batch)]
    return steps


def with_empty_shards(folder):
    """Put a shard without samples before every shard and after the last."""
    manifest = json.loads((folder / "manifest.json").read_bytes())
    index = index_from_file(folder / "index.npz")
    (folder / "empty.tar").write_bytes(bytes(10240))  # what tar makes of nothing
    empty = {
        "url": "empty.tar",
        "nsamples": 0,
        "filesize": 10240,
        "sha256": hashlib.sha256(bytes(10240)).hexdigest(),
    }
    listed = [empty]
    for shard in manifest["shardlist"]:
        listed += [shard, empty]
    columns = {name: getattr(index, name) for name in COLUMNS}
    columns["shard"] = index.shard * 2 + 1
    data = Index(**columns).to_bytes()
    (folder / "index.npz").write_bytes(data)
    manifest |= {"shardlist": listed, "index_sha256": hashlib.sha256(data).hexdigest()}
    manifest["digest"] = digest_of(manifest["categories"], listed)
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.fixture
def cut(make_coco, tmp_path):
    """Convert one dataset of 100 images into shards of other sizes."""
    root, _ = make_coco(100)

    def convert_to(name, megabytes):
        out = tmp_path / name
        convert(Conversion(coco=root, split="train", out=out, shard_megabytes=megabytes, processes=1))
        return out

    return convert_to


def test_pixels_do_not_depend_on_readers_or_sharding(cut):
    one, some, many = cut("one", 100), cut("some", 0.02), cut("many", 1e-5)
    shards = [ShardSet.open(folder) for folder in (one, some, many)]
    assert [len(s.manifest["shardlist"]) for s in shards][::2] == [1, 100]
    whole = seen(shards[0], 0, 5)  # two and a half epochs
    assert all(len(set(step)) == 48 for step in whole)
    for world, accumulation, readers in ((2, 2, 1), (3, 1, 2), (4, 3, 3), (8, 2, 2), (16, 3, 1), (16, 1, 4)):
        which = shards[world % 3]
        assert seen(which, 0, 5, world=world, accumulation=accumulation, readers=readers) == whole
    for first in range(1, 5):
        assert seen(shards[first % 3], first, 5, world=1 + first % 4, readers=2) == whole[first:]
    with_empty_shards(some)
    holed = ShardSet.open(some)
    assert len(holed.manifest["shardlist"]) == 2 * len(shards[1].manifest["shardlist"]) + 1
    assert seen(holed, 2, 5, world=4) == whole[2:]


def test_resuming_opens_only_the_shards_of_the_remaining_steps(cut, monkeypatch):
    opened = []
    shards, real = ShardSet.open(cut("many", 1e-5)), read.os.open
    monkeypatch.setattr(read.os, "open", lambda path, *args: (opened.append(str(path)), real(path, *args))[1])
    stream = TrainStream(shards, SMALL, StreamConfig(batch_size=4, seed=0, rank=1, world_size=2, readers=2))
    rows = [row for step in stream.order.steps(60, 63) for row in share(step.rows, rank=1, world_size=2)]
    assert len(list(stream.steps(60, 63))) == 3  # of the third epoch
    files = [path for path in opened if path.endswith(".tar")]
    expected = [str(shards.path / f"train-{shards.index.shard[row]:06d}.tar") for row in rows]
    assert sorted(files) == sorted(expected)
    assert len(set(files)) == 6
