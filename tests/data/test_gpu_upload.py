"""Batches that are on the GPU when they come, and are what they are elsewhere."""

import pytest
import torch

from qdet.data.augment import AugmentConfig
from qdet.data.loading.planned_stream import EvalStream, TrainStream
from qdet.data.loading.stream_config import StreamConfig
from qdet.data.shards.shard_set import ShardSet

SMALL = AugmentConfig(sizes=(48, 64), max_size=96)


def test_without_a_gpu_batches_stay_on_the_host(shards_folder):
    stream = EvalStream(
        ShardSet.open(shards_folder), SMALL, StreamConfig(batch_size=4, device=torch.device("cpu"))
    )
    assert {batch.images.device.type for batch in stream} == {"cpu"}


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_images_are_on_the_gpu_and_the_same_while_it_computes(shards_folder, kind):
    device, shards = torch.device("cuda", 0), ShardSet.open(shards_folder)

    def steps(**how):
        return TrainStream(shards, SMALL, StreamConfig(batch_size=6, seed=0, readers=2, **how)).steps(0, 12)

    busy = torch.randn(4096, 4096, device=device)
    for (there,), (here,) in zip(steps(device=device, reader_kind=kind), steps(), strict=True):
        for _ in range(20):
            busy = (busy @ busy).softmax(1)
        assert there.images.device == device
        assert there.image_ids.device.type == "cpu"
        assert torch.equal(there.images.cpu(), here.images)
