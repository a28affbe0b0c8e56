#!/usr/bin/env python
"""AdaMixer's ablation of P_in, the points sampled per group. 16 of them, the paper: 41.8 AP on COCO val2017.

    python jobs/adamixer_r50_ablation_points_in.py
    python jobs/adamixer_r50_ablation_points_in.py --sweep
    python jobs/adamixer_r50_ablation_points_in.py --demo --sweep

    P_in            8     16    32    64
    AP (val2017)    41.2  41.8  42.7  42.7

The first command trains the model that samples 16 points, the second every row of the table.
Paper: https://arxiv.org/abs/2203.16507
"""

from qdet.backbones import ResNetConfig
from qdet.data.augment import AugmentConfig
from qdet.detectors import AdaMixerConfig
from qdet.job import DataConfig, Job, OptimConfig, Sweep, TrainConfig
from qdet.launching.cli import launch
from qdet.search import Each

job = Job(
    name="adamixer_r50_ablation_points_in",
    detector=AdaMixerConfig(
        backbone=ResNetConfig(depth=50, norm="eval"),
        queries=100,
        points_in=16,
    ),
    data=DataConfig(augment=AugmentConfig(sizes=(800,))),
    optim=OptimConfig(
        lr=2.5e-5,
        drop_epochs=(8, 11),
    ),
    train=TrainConfig(
        epochs=12,
        batch_size=16,  # 2 images on each of 8 GPUs
        zero=1,
    ),
)

sweep = Sweep(
    trials=1,
    grace_epochs=12,  # none is stopped early: the table is of whole trainings
    space={
        "detector.points_in": Each((8, 16, 32, 64)),
    },
)

if __name__ == "__main__":
    launch(job, sweep=sweep)
