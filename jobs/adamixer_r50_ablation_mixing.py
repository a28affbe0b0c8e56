#!/usr/bin/env python
"""AdaMixer's ablation of the order of mixing. Points before channels, the paper: 41.5 AP on COCO val2017.

    python jobs/adamixer_r50_ablation_mixing.py
    python jobs/adamixer_r50_ablation_mixing.py --sweep
    python jobs/adamixer_r50_ablation_mixing.py --demo --sweep

    order           acm-acm  asm-asm  acm-asm  asm-acm
    AP (val2017)    41.5     39.8     42.7     41.5

The first command trains the model that mixes points first, the second every row of the table.
Paper: https://arxiv.org/abs/2203.16507
"""

from qdet.backbones import ResNetConfig
from qdet.data.augment import AugmentConfig
from qdet.detectors import AdaMixerConfig
from qdet.job import DataConfig, Job, OptimConfig, Sweep, TrainConfig
from qdet.launching.cli import launch
from qdet.search import Each

job = Job(
    name="adamixer_r50_ablation_mixing",
    detector=AdaMixerConfig(
        backbone=ResNetConfig(depth=50, norm="eval"),
        queries=100,
        mixing="asm-acm",
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
        "detector.mixing": Each(("acm-acm", "asm-asm", "acm-asm", "asm-acm")),
    },
)

if __name__ == "__main__":
    launch(job, sweep=sweep)
