"""Images that cannot be read, found by different ranks, are held against one budget."""

import shutil

import pytest
from torch.multiprocessing.spawn import ProcessRaisedException

from qdet.config import override
from qdet.data.plan.order import Order, share
from qdet.data.shards.shard_set import ShardSet
from tests.support.ranks import checkpoint, tiny_job, train_all


@pytest.fixture
def damaged(demo_shards, tmp_path):
    """A job of 2 ranks each of which will meet one bad image in its first epoch, and the names of both."""
    folder = tmp_path / "shards"
    shutil.copytree(demo_shards, folder)
    job = tiny_job(folder, **{"train.workers": 2, "train.batch_size": 8, "train.steps": 4, "train.seed": 3})
    shards = ShardSet.open(job.data.train)
    order = Order(index=shards.index, augment=job.data.augment, batch_size=8, seed=3)
    first, second = (step.rows for step in order.steps(0, 2))
    rows = [int(share(first, rank=0, world_size=2)[1]), int(share(second, rank=1, world_size=2)[2])]
    for row in rows:
        tar = folder / "train" / shards.manifest["shardlist"][int(shards.index.shard[row])]["url"]
        data = bytearray(tar.read_bytes())
        data[int(shards.index.image_offset[row]) + 40] ^= 0xFF
        tar.write_bytes(data)
    return job, [shards.name_of(row) for row in rows]


@pytest.mark.slow
def test_unreadable_images_of_all_ranks_share_one_budget_across_restarts(damaged, tmp_path):
    job, names = damaged
    points = train_all(2, {"two": override(job, {"data.max_bad": 2})}, tmp_path / "store")
    assert points["two"][4]["data/substituted"] == 2
    with pytest.raises(
        ProcessRaisedException, match=r"2 images cannot be read, --data\.max-bad allows 1"
    ) as error:
        train_all(2, {"one": override(job, {"data.max_bad": 1})}, tmp_path / "store")
    assert all(name in str(error.value) for name in names)

    known = checkpoint(tmp_path / "store", "two", 4).state.unreadable
    assert len(known) == 2
    assert all(any(name in reason for reason in known.values()) for name in names)
    later = override(job, {"data.max_bad": 1, "train.steps": 6})
    with pytest.raises(ProcessRaisedException, match=r"2 images cannot be read, --data\.max-bad allows 1"):
        train_all(2, {"two": later}, tmp_path / "store")
