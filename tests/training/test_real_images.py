"""Learning from real photographs, which takes minutes."""

import json
from dataclasses import replace

import pytest
from rich.console import Console

from data_prep.coco_to_shards import Conversion, convert
from qdet.backbones import ResNetConfig
from qdet.config import override
from qdet.data.augment import AugmentConfig
from qdet.detectors import AdaMixerConfig
from qdet.job import DataConfig, EvalConfig, Job, OptimConfig, TrainConfig
from tests.support.ranks import losses, train_all

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
    """Shards of the 16 real images whose smallest object is largest: they are learned at 128 pixels."""
    out = tmp_path_factory.mktemp("sixteen")
    content = json.loads((coco_root / "annotations" / "instances_train2017.json").read_text())
    boxes = {image["id"]: [] for image in content["images"]}
    for annotation in content["annotations"]:
        boxes[annotation["image_id"]].append(annotation["bbox"])

    def smallest(image):
        sides = [min(w, h) for _, _, w, h in boxes[image["id"]]]
        return min(sides, default=0) / min(image["width"], image["height"])

    content["images"] = sorted(content["images"], key=smallest, reverse=True)[:16]
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
            precision="auto",
            checkpoint_every=100,
            timeout=600,
        ),
    )
    found = losses(train_all(2, {"r50": job}, tmp_path)["r50"])
    assert len(found) == 6
    assert min(found[3:]) < found[0]


@pytest.mark.one_process
def test_a_small_adamixer_overfits_sixteen_images(sixteen, tmp_path):
    backbone = ResNetConfig(depth=14, norm="group", freeze=False, weights=None)
    augment = AugmentConfig(sizes=(128,), max_size=213, flip=0.0)
    job = override(
        Job(name="few").demo(),
        {
            "detector": replace(AdaMixerConfig().demo(), backbone=backbone, queries=40),
            "data": DataConfig(train=str(sixteen), val=str(sixteen), augment=augment),
            "optim": OptimConfig(
                lr=1e-3, weight_decay=0.0, schedule="cosine", warmup_steps=100, ema_decay=0.98
            ),
            "train.steps": 300,
            "train.batch_size": 8,
            "train.workers": 1,
            "train.log_every": 50,
            "train.eval_every": 0,
            "train.checkpoint_every": 10_000,
            "eval": EvalConfig(pictures=0),
        },
    )
    assert train_all(1, {"few": job}, tmp_path)["few"][300]["val/AP50"] >= 0.90
