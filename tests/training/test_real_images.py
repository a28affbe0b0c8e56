"""Learning from real photographs, which takes minutes."""

import json
from dataclasses import replace

import pytest
from ranks import losses, train_all
from rich.console import Console

from data_prep.coco_to_shards import Conversion, convert
from qdet.backbones import ResNetConfig
from qdet.config import override
from qdet.data.augment import AugmentConfig
from qdet.detectors import AdaMixerConfig
from qdet.job import DataConfig, EvalConfig, Job, OptimConfig, TrainConfig

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def shards(coco_root, tmp_path_factory):
    out = tmp_path_factory.mktemp("coco")
    for split in ("train2017", "val2017"):
        conversion = Conversion(coco=coco_root, split=split, out=out / split, processes=1)
        convert(conversion, console=Console(quiet=True))
    return out


@pytest.fixture(scope="module")
def sixteen(coco_root, tmp_path_factory):
    """Shards of 16 real images."""
    out = tmp_path_factory.mktemp("sixteen")
    content = json.loads((coco_root / "annotations" / "instances_train2017.json").read_text())
    content["images"] = content["images"][:16]
    ids = {image["id"] for image in content["images"]}
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in ids]
    annotations = out / "few.json"
    annotations.write_text(json.dumps(content))
    conversion = Conversion(
        images=coco_root / "train2017", annotations=annotations, split="few", out=out / "few", processes=1
    )
    convert(conversion, console=Console(quiet=True))
    return out / "few"


def test_adamixer_r50_at_full_width_trains_on_two_ranks(shards, tmp_path):
    job = Job(
        name="r50",
        detector=AdaMixerConfig(backbone=ResNetConfig(depth=50, norm="eval", weights=None)),
        data=DataConfig(
            train=str(shards / "train2017"),
            val=str(shards / "val2017"),
            augment=AugmentConfig(sizes=(256,), max_size=426),
        ),
        optim=OptimConfig(warmup_steps=2),
        train=TrainConfig(
            steps=6,
            batch_size=4,
            workers=2,
            zero=2,
            log_every=1,
            accelerator="cpu",
            checkpoint_every=100,
            timeout=600,
        ),
    )
    found = losses(train_all(2, {"r50": job}, tmp_path)["r50"])
    assert len(found) == 6
    assert min(found[3:]) < found[0]


def test_a_small_adamixer_overfits_sixteen_images(sixteen, tmp_path):
    job = override(
        Job(name="few").demo(),
        {
            "detector": replace(
                AdaMixerConfig().demo(),
                backbone=ResNetConfig(depth=14, norm="group", weights=None),
                queries=60,
            ),
            "data": DataConfig(
                train=str(sixteen),
                val=str(sixteen),
                augment=AugmentConfig(sizes=(192,), max_size=320, flip=0.0),
            ),
            "optim.lr": 1e-3,
            "optim.lr_multipliers": (),
            "optim.no_decay": (),
            "optim.weight_decay": 0.0,
            "train.steps": 900,
            "train.batch_size": 8,
            "train.workers": 1,
            "train.log_every": 50,
            "train.checkpoint_every": 10_000,
            "eval": EvalConfig(pictures=0),
        },
    )
    found = train_all(1, {"few": job}, tmp_path)["few"]
    assert found[900]["val/AP50"] >= 0.90
