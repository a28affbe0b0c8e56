#!/usr/bin/env python
"""AdaMixer with ResNet-50: 100 queries, 12 epochs. The paper reports 42.7 AP on COCO val2017.

    python jobs/adamixer_r50.py
    python jobs/adamixer_r50.py --data.train data/mine/train --data.val data/mine/val

Every switch of the paper's ablations is a flag, here with other points, groups and positions:

    python jobs/adamixer_r50.py --detector.points-in 64 --detector.points-out 64
    python jobs/adamixer_r50.py --detector.groups 8 --detector.position iof

Paper: https://arxiv.org/abs/2203.16507
"""

from qdet.backbones import ResNetConfig
from qdet.data.augment import AugmentConfig
from qdet.detectors import AdaMixerConfig
from qdet.job import DataConfig, Job, OptimConfig, Sweep, TrainConfig
from qdet.launching.cli import launch
from qdet.search import Choice, LogUniform

job = Job(
    name="adamixer_r50",
    detector=AdaMixerConfig(
        backbone=ResNetConfig(depth=50, norm="eval"),
        queries=100,
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
    metric="val/AP",
    trials=12,
    space={
        "optim.lr": LogUniform(1e-5, 1e-4),
        "detector.queries": Choice((100, 300)),
    },
)

if __name__ == "__main__":
    launch(job, sweep=sweep)
