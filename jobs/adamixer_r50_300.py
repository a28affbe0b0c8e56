#!/usr/bin/env python
"""AdaMixer with ResNet-50: 300 queries, 36 epochs, random crops; also with larger backbones.

    python jobs/adamixer_r50_300.py
    python jobs/adamixer_r50_300.py --variant r101

Paper: https://arxiv.org/abs/2203.16507
"""

from qdet import (
    AdaMixerConfig,
    AugmentConfig,
    DataConfig,
    Job,
    OptimConfig,
    Published,
    ResNetConfig,
    ResNeXtDCNConfig,
    Sweep,
    TrainConfig,
    Variant,
    launch,
)
from qdet.search import Choice, LogUniform

job = Job(
    name="adamixer_r50_300",
    detector=AdaMixerConfig(
        backbone=ResNetConfig(depth=50, norm="eval"),
        queries=300,
    ),
    data=DataConfig(augment=AugmentConfig(pipeline="mmdet", crop=True)),
    optim=OptimConfig(
        lr=2.5e-5,
        drop_epochs=(24, 33),
    ),
    train=TrainConfig(
        epochs=36,
        batch_size=16,  # 2 images on each of 8 GPUs
        zero=1,
    ),
)

published = Published(ap=47.0, params=139, macs=132, constants=1200)

variants = {
    "r101": Variant(
        name="adamixer_r101",
        changes={"detector.backbone.depth": 101},
        published=Published(ap=48.0, params=158, macs=208, constants=1200),
    ),
    "x101_dcn": Variant(
        name="adamixer_x101_dcn",
        changes={"detector.backbone": ResNeXtDCNConfig()},
        published=Published(ap=49.5, params=160, macs=214, constants=1200),
    ),
}

sweep = Sweep(
    metric="val/AP",
    trials=12,
    space={
        "optim.lr": LogUniform(1e-5, 1e-4),
        "detector.queries": Choice((100, 300)),
    },
)

if __name__ == "__main__":
    launch(job, sweep=sweep, published=published, variants=variants)
