#!/usr/bin/env python
"""DINO with ResNet-50 on four scales, 12 epochs; also 24 and 36 epochs, and five scales.

    python jobs/dino_r50.py
    python jobs/dino_r50.py --variant 5scale_36ep
    python jobs/dino_r50.py --detector.denoising.kind none
    python jobs/dino_r50.py --demo --sweep --sweep.trials 3

Paper: https://arxiv.org/abs/2203.03605

Evaluates one image at a time, as the authors do: where queries start depends on padding, which costs AP.
Groups of extra queries are those of each image. `--detector.denoising.grouping batch` is the authors' way,
whose result depends on the number of workers: docs/denoising.md.
"""

from qdet import (
    DINO_DENOISING,
    DINO_LOSS,
    AugmentConfig,
    DataConfig,
    DINOConfig,
    EvalConfig,
    Job,
    OptimConfig,
    Published,
    ResNetConfig,
    Sweep,
    TrainConfig,
    Variant,
    launch,
)
from qdet.search import Choice, LogUniform

job = Job(
    name="dino_r50",
    detector=DINOConfig(
        backbone=ResNetConfig(depth=50),
        queries=900,
        denoising=DINO_DENOISING,
    ),
    loss=DINO_LOSS,
    data=DataConfig(augment=AugmentConfig(crop=True, pad_multiple=1)),
    optim=OptimConfig(
        lr=1e-4,
        lr_multipliers=((r"^backbone\.", 0.1),),
        drop_epochs=(11,),
        warmup_steps=0,
        clip_norm=0.1,
    ),
    train=TrainConfig(
        epochs=12,
        batch_size=16,  # 2 images on each of 8 GPUs; with five scales 1 on each of 16
        workers=8,
    ),
    eval=EvalConfig(batch_size=1),
)

README = "the authors' README"
published = Published(ap=49.0, params=47, macs=279, source=README, classes=91)

FIVE = {"detector.levels": 5, "train.workers": 16}
LONG = {"train.epochs": 24, "optim.drop_epochs": (20,)}
LONGEST = {"train.epochs": 36, "optim.drop_epochs": (30,)}

variants = {
    "24ep": Variant(
        name="dino_r50_24ep",
        changes=LONG,
        published=Published(ap=50.4, params=47, macs=279, source=README, classes=91),
    ),
    # The released one was dropped by hand, from its best epoch on, and a second time.
    "36ep": Variant(
        name="dino_r50_36ep",
        changes=LONGEST,
        published=Published(ap=50.9, params=47, macs=279, source=README, classes=91),
    ),
    "5scale": Variant(
        name="dino_r50_5scale",
        says="5 scales",
        changes=FIVE,
        published=Published(ap=49.4, params=47, macs=860, source=README, classes=91),
    ),
    "5scale_24ep": Variant(
        name="dino_r50_5scale_24ep",
        says="5 scales",
        changes=FIVE | LONG,
        published=Published(ap=51.3, params=47, macs=860, source=README, classes=91),
    ),
    "5scale_36ep": Variant(
        name="dino_r50_5scale_36ep",
        says="5 scales",
        changes=FIVE | LONGEST,
        published=Published(ap=51.2, params=47, macs=860, source=README, classes=91),
    ),
}

sweep = Sweep(
    metric="val/AP",
    trials=12,
    space={
        "optim.lr": LogUniform(5e-5, 4e-4),
        "detector.queries": Choice((300, 900)),
        "detector.denoising.queries": Choice((100, 200, 400)),
    },
)

if __name__ == "__main__":
    launch(job, sweep=sweep, published=published, variants=variants)
