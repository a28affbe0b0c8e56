#!/usr/bin/env python
"""AdaMixer's ablation of pyramids. With an FPN after the channel mapping, the paper: 42.1 AP on COCO val2017.

    python jobs/adamixer_r50_ablation_pyramid.py
    python jobs/adamixer_r50_ablation_pyramid.py --sweep
    python jobs/adamixer_r50_ablation_pyramid.py --demo --sweep

    pyramid         fpn   pafpn  none
    AP (val2017)    42.1  41.7   42.7

The first command trains the model with an FPN, the second every row of the table.
Paper: https://arxiv.org/abs/2203.16507
"""

from qdet.backbones import ResNetConfig
from qdet.data.augment import AugmentConfig
from qdet.detectors import AdaMixerConfig
from qdet.job import DataConfig, Job, OptimConfig, Sweep, TrainConfig
from qdet.launching.cli import launch
from qdet.search import Each

job = Job(
    name="adamixer_r50_ablation_pyramid",
    detector=AdaMixerConfig(
        backbone=ResNetConfig(depth=50, norm="eval"),
        queries=100,
        pyramid="fpn",
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
        "detector.pyramid": Each(("fpn", "pafpn", "none")),
    },
)

if __name__ == "__main__":
    launch(job, sweep=sweep)
