#!/usr/bin/env python
"""AdaMixer's ablation of P_out, the points after mixing. 64 of them, the paper: 42.1 AP on COCO val2017.

    python jobs/adamixer_r50_ablation_points_out.py
    python jobs/adamixer_r50_ablation_points_out.py --sweep
    python jobs/adamixer_r50_ablation_points_out.py --demo --sweep

    P_out           32    64    128   256
    AP (val2017)    41.1  42.1  42.7  42.4

The first command trains the model with 64 points, the second every row of the table.
Paper: https://arxiv.org/abs/2203.16507
"""

from qdet.backbones import ResNetConfig
from qdet.data.augment import AugmentConfig
from qdet.detectors import AdaMixerConfig
from qdet.job import DataConfig, Job, OptimConfig, Sweep, TrainConfig
from qdet.launching.cli import launch
from qdet.search import Each

job = Job(
    name="adamixer_r50_ablation_points_out",
    detector=AdaMixerConfig(
        backbone=ResNetConfig(depth=50, norm="eval"),
        queries=100,
        points_out=64,
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
        "detector.points_out": Each((32, 64, 128, 256)),
    },
)

if __name__ == "__main__":
    launch(job, sweep=sweep)
