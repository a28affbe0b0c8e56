#!/usr/bin/env python
"""AdaMixer with ResNet-50: 300 queries, 36 epochs, random crops; also 12 and 24, and larger backbones.

    python jobs/adamixer_r50_300.py
    python jobs/adamixer_r50_300.py --variant r101

The paper's table has 12 and 24 epochs beside 36. Their drops are the usual ones of mmdetection's schedules.

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

published = Published(
    ap=47.0,
    columns=(66.0, 51.1, 30.1, 50.2, 61.8),
    test_dev=47.2,
    params=139,
    macs=132,
    fps=15,
    hours=29,
    constants=1200,
)

variants = {
    "12ep": Variant(
        name="adamixer_r50_300_12ep",
        changes={"optim.drop_epochs": (8, 11), "train.epochs": 12},
        published=Published(ap=44.1, columns=(63.1, 47.8, 29.5, 47.0, 58.8), macs=132, constants=1200),
    ),
    "24ep": Variant(
        name="adamixer_r50_300_24ep",
        changes={"optim.drop_epochs": (16, 22), "train.epochs": 24},
        published=Published(ap=46.7, columns=(65.9, 50.5, 29.7, 49.7, 61.5), macs=132, constants=1200),
    ),
    "r101": Variant(
        name="adamixer_r101",
        changes={"detector.backbone.depth": 101},
        published=Published(
            ap=48.0,
            columns=(67.0, 52.4, 30.0, 51.2, 63.7),
            test_dev=48.1,
            params=158,
            macs=208,
            fps=12,
            hours=37,
            constants=1200,
        ),
    ),
    "x101_dcn": Variant(
        name="adamixer_x101_dcn",
        changes={"detector.backbone": ResNeXtDCNConfig()},
        published=Published(
            ap=49.5,
            columns=(68.9, 53.9, 31.3, 52.3, 66.3),
            test_dev=49.3,
            params=160,
            macs=214,
            fps=8,
            hours=65,
            constants=1200,
        ),
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
