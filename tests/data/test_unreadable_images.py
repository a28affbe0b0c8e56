"""Images that cannot be read: who stands in, that all ranks agree on it, and when the run stops."""

import dataclasses
import socket

import numpy as np
import pytest
import torch

from data_prep.coco_to_shards import Conversion, convert
from qdet.data.augment import AugmentConfig
from qdet.data.loading.planned_stream import EvalStream, TrainStream
from qdet.data.loading.stream_config import StreamConfig
from qdet.data.plan.ledger import Ledger, account
from qdet.data.shards.locate import Access
from qdet.data.shards.shard_set import ShardSet
from qdet.errors import DataError

SMALL = AugmentConfig(sizes=(32, 48), max_size=64, pad_multiple=8)
GLOBAL = 8


@pytest.fixture
def damaged(make_coco, tmp_path):
    """Shards of 32 images, of which rows 3, 11 and 17 have a flipped byte."""
    root, _ = make_coco(32)
    folder = tmp_path / "shards"
    convert(Conversion(coco=root, split="train", out=folder, shard_megabytes=0.02, processes=1))
    shards = ShardSet.open(folder)
    for row in (3, 11, 17):
        tar = folder / shards.manifest["shardlist"][int(shards.index.shard[row])]["url"]
        data = bytearray(tar.read_bytes())
        data[int(shards.index.image_offset[row]) + 40] ^= 0xFF
        tar.write_bytes(data)
    return shards


def _epoch(shards, *, world=1, max_bad=10, **how):
    """The batches of all ranks by step, and how the images of the epoch add up."""
    streams = [
        TrainStream(
            shards,
            SMALL,
            StreamConfig(batch_size=GLOBAL, seed=5, rank=r, world_size=world, max_bad=max_bad, **how),
        )
        for r in range(world)
    ]
    steps = [list(stream.steps(0, stream.steps_per_epoch)) for stream in streams]
    return streams[0].order, [[b for rank in step for b in rank] for step in zip(*steps, strict=True)]


def _content(steps):
    return [
        (
            [i for batch in step for i in batch.image_ids.tolist()],
            [image.sum().item() for batch in step for image in batch.images.long()],
            [dataclasses.astuple(s)[:2] for batch in step for s in batch.substitutes],
        )
        for step in steps
    ]


@pytest.mark.parametrize(
    "how",
    [
        {"world": 1, "readers": 3},
        {"world": 2, "accumulation": 2},
        {"world": 4},
        {"world": 8},
        {"world": 2, "readers": 1, "reader_kind": "processes"},
    ],
)
def test_substitutes_are_the_same_on_any_number_of_ranks_and_readers(damaged, how):
    _, alone = _epoch(damaged)
    _, steps = _epoch(damaged, **how)
    assert _content(steps) == _content(alone)


def test_substitutes_come_from_the_same_global_batch_and_the_ledger_balances(damaged):
    order, steps = _epoch(damaged, world=2)
    bad = {int(damaged.index.image_id[row]) for row in (3, 11, 17)}
    ledger = Ledger(order)
    plan = order.plan(0).whole()
    for number, step in enumerate(steps):
        planned = damaged.index.image_id[plan.rows[number]]
        received = [i for batch in step for i in batch.image_ids.tolist()]
        missing = {s.planned_id: s.image_id for batch in step for s in batch.substitutes}
        assert set(missing) == bad & set(planned.tolist())
        assert received == [missing.get(i, i) for i in planned.tolist()]
        assert not bad & set(received)
        assert set(received) <= set(planned.tolist())
        ledger.record(np.array(received), [(s.planned_id, s.image_id) for b in step for s in b.substitutes])
    found = account(ledger.received, order, order.steps_per_epoch)
    found.check()
    assert (found.lost, found.duplicated, set(found.substituted)) == ((), (), bad)


def test_a_substitute_is_augmented_as_in_its_own_place(damaged):
    _, steps = _epoch(damaged)
    for (batch,) in steps:
        for image in batch.substitutes:
            places = [k for k, i in enumerate(batch.image_ids.tolist()) if i == image.image_id]
            assert len(places) == 2
            one, two = places
            assert torch.equal(batch.images[one], batch.images[two])
            assert torch.equal(batch.sizes_hw[one], batch.sizes_hw[two])
            assert torch.equal(batch.targets.per_image()[one][0], batch.targets.per_image()[two][0])


def test_each_bad_image_is_named_once_and_one_too_many_stops_the_run(damaged, capsys):
    stream = TrainStream(damaged, SMALL, StreamConfig(batch_size=GLOBAL, seed=5, max_bad=3))
    list(stream.steps(0, 3 * stream.steps_per_epoch))
    said = capsys.readouterr().out
    for row in (3, 11, 17):
        what = f"{damaged.name_of(row)}: the image is not what was written"
        assert said.count(f"{what}: its checksum differs on host {socket.gethostname()}") == 1
    stream = TrainStream(damaged, SMALL, StreamConfig(batch_size=GLOBAL, seed=5, max_bad=2))
    with pytest.raises(DataError, match=r"3 images cannot be read, --data\.max-bad allows 2") as error:
        list(stream.steps(0, stream.steps_per_epoch))
    assert all(damaged.name_of(row) in str(error.value) for row in (3, 11, 17))


def test_without_a_budget_the_first_bad_image_stops_the_run(damaged):
    stream = TrainStream(damaged, SMALL, StreamConfig(batch_size=GLOBAL, seed=5))
    with pytest.raises(DataError, match=r"sample 0000000000\d\d: the image is not what was written"):
        list(stream.steps(0, stream.steps_per_epoch))


def test_evaluation_never_leaves_an_image_out(damaged):
    with pytest.raises(DataError, match="is not what was written"):
        list(EvalStream(damaged, SMALL, StreamConfig(batch_size=2)))


def test_a_batch_of_nothing_but_bad_images_is_an_error(damaged):
    for shard in damaged.manifest["shardlist"]:
        tar = damaged.path / shard["url"]
        tar.write_bytes(bytes(tar.stat().st_size))
    stream = TrainStream(damaged, SMALL, StreamConfig(batch_size=GLOBAL, seed=5, max_bad=1000))
    with pytest.raises(DataError, match="nothing else of its global batch can be read"):
        next(stream.steps(0, 1))


def test_an_image_of_another_size_than_its_index_says_is_not_decoded(make_coco, tmp_path, monkeypatch):
    root, _ = make_coco(2)
    convert(Conversion(coco=root, split="train", out=tmp_path / "s", processes=1))
    shards = ShardSet.open(tmp_path / "s")
    wrong = dataclasses.replace(shards.index, height=np.full(2, 7, dtype=np.uint16))
    monkeypatch.setattr("qdet.data.image.judge.decode", lambda *_, **__: pytest.fail("was decoded"))
    from qdet.data.loading.sample import load_image

    with pytest.raises(DataError, match="pixels, its index says"):
        load_image(dataclasses.replace(shards, index=wrong), 0)


def test_an_image_above_the_limit_of_pixels_is_refused_by_its_header(make_coco, tmp_path, monkeypatch):
    root, _ = make_coco(3)
    convert(Conversion(coco=root, split="train", out=tmp_path / "s", processes=1))
    monkeypatch.setattr("qdet.data.image.judge.decode", lambda *_, **__: pytest.fail("was decoded"))
    from qdet.data.loading.sample import load_image

    shards = ShardSet.open(tmp_path / "s", Access(max_pixels=1000))
    with pytest.raises(DataError, match=r"0000\d\d has 60x40 pixels, more than --data\.max-pixels 1000"):
        load_image(shards, int(np.argmax(shards.index.width)))
