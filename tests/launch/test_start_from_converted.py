"""Fine-tuning from the authors' weights: `qdet convert`, then `--store.init-from`."""

from dataclasses import replace

import pytest
import torch

from qdet.__main__ import main
from qdet.backbones import ResNetConfig
from qdet.config import override
from qdet.data.loading.planned_stream import TrainStream
from qdet.data.loading.stream_config import StreamConfig
from qdet.data.shards.shard_set import ShardSet
from qdet.detectors import DETRConfig
from qdet.job import Job
from qdet.launching import cli
from qdet.losses import DETR_LOSS
from qdet.recipes import Recipe
from tests.support.published import as_detrs_authors
from tests.support.ranks import checkpoint, losses, train_all

LR = 1e-6


@pytest.fixture
def job(demo_shards) -> Job:
    """DETR's demo, two steps on images of 64 pixels."""
    detector = replace(DETRConfig().demo(), backbone=ResNetConfig(depth=14, width=8))
    small = override(Job(name="fine", detector=detector, loss=DETR_LOSS).demo(), {"detector": detector})
    return override(
        small,
        {
            "data.train": str(demo_shards / "train"),
            "data.val": str(demo_shards / "val"),
            "data.augment.sizes": (64,),
            "data.augment.max_size": 64,
            "optim.lr": LR,
            "optim.warmup_steps": 0,
            "optim.weight_decay": 0.0,
            "train.steps": 2,
            "train.batch_size": 4,
            "train.workers": 1,
            "train.precision": "fp32",
            "train.log_every": 1,
            "eval.pictures": 0,
        },
    )


def test_two_steps_from_a_converted_checkpoint(job, tmp_path):
    shards = ShardSet.open(job.data.train)
    torch.manual_seed(7)  # not the seed of the run's own initialization
    detector = job.detector.build(len(shards.categories)).train()
    theirs = {name: t.clone() for name, t in as_detrs_authors(detector.state_dict()).items()}
    torch.save({"model": theirs, "epoch": 499}, tmp_path / "detr.pth")
    main(["convert", str(tmp_path / "detr.pth"), "--to", str(tmp_path / "start"), "--heads", "4"])

    started = cli.parse(Recipe(job=job), ["--store.init-from", str(tmp_path / "start")])
    logged = losses(train_all(1, {"fine": started}, tmp_path / "store")["fine"])
    weights = checkpoint(tmp_path / "store", "fine", 2).all("weights")

    stream = TrainStream(shards, job.data.augment, StreamConfig(batch_size=4, seed=job.train.seed))
    (batch,) = next(iter(stream.steps(0, 1)))
    objects = float(max(sum(batch.targets.counts), 1))
    with torch.no_grad():
        predictions = detector(batch.images, batch.sizes_hw)
        criterion = job.loss.build(len(shards.categories))
        loss = criterion(predictions, batch.targets, batch.sizes_hw, normalizer=objects).total
    assert len(logged) == 2
    assert logged[0] == pytest.approx(loss.item(), rel=1e-5)
    before = detector.state_dict()
    for name, tensor in weights.items():  # AdamW moves no weight by more than the learning rate per step
        torch.testing.assert_close(tensor, before[name], atol=2.1 * LR, rtol=0)
    assert not weights["class_head.weight"].equal(before["class_head.weight"])
