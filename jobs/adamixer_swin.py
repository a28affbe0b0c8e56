#!/usr/bin/env python
"""AdaMixer with Swin-S: 300 queries, 36 epochs, random crops.

    python jobs/adamixer_swin.py --train.epochs 12
    ray job submit --working-dir . -- python jobs/adamixer_swin.py --train.epochs 12
    python jobs/adamixer_swin.py --demo --sweep --sweep.trials 3

Paper: https://arxiv.org/abs/2203.16507
"""

from qdet import (
    AdaMixerConfig,
    AugmentConfig,
    DataConfig,
    Job,
    OptimConfig,
    Published,
    Sweep,
    SwinConfig,
    TrainConfig,
    launch,
)
from qdet.search import Choice, LogUniform, Uniform

job = Job(
    name="adamixer_swin",
    detector=AdaMixerConfig(
        backbone=SwinConfig(size="s", drop_attention=False),
        queries=300,
    ),
    data=DataConfig(augment=AugmentConfig(pipeline="mmdet", crop=True)),
    optim=OptimConfig(
        lr=2.5e-5,
        drop_epochs=(24, 33),
        warmup_steps=1000,
        no_decay=(
            r"^(backbone|decoder)\..*norm",  # not the norm of the neck, as in the authors' configuration
            r"relative_position_bias",
        ),
    ),
    train=TrainConfig(
        epochs=36,
        batch_size=16,  # 2 images on each of 8 GPUs
        zero=1,
    ),
)

published = Published(
    ap=51.3,
    columns=(71.2, 55.7, 34.2, 54.6, 67.3),
    test_dev=51.3,
    params=164,
    macs=234,
    fps=10,
    hours=51,
    constants=1200,
)

sweep = Sweep(
    metric="val/AP",
    trials=24,
    space={
        "optim.lr": LogUniform(1e-5, 1e-4),
        "detector.queries": Choice((100, 300)),
        "detector.backbone.drop_path": Uniform(0.1, 0.3),
    },
)

if __name__ == "__main__":
    launch(job, sweep=sweep, published=published)
