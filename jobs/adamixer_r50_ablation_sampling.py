#!/usr/bin/env python
"""AdaMixer's ablation of sampling. Adaptive but on the scale of the box, the paper: 41.3 AP on COCO val2017.

    python jobs/adamixer_r50_ablation_sampling.py
    python jobs/adamixer_r50_ablation_sampling.py --sweep
    python jobs/adamixer_r50_ablation_sampling.py --demo --sweep

    sampling        c3    c4    c5    roi-align  2d    3d
    AP (val2017)    26.2  38.3  37.8  37.2       41.3  42.7

The first command trains the model that samples in two dimensions, the second every row of the table.
Paper: https://arxiv.org/abs/2203.16507
"""

from qdet.backbones import ResNetConfig
from qdet.data.augment import AugmentConfig
from qdet.detectors import AdaMixerConfig
from qdet.job import DataConfig, Job, OptimConfig, Sweep, TrainConfig
from qdet.launching.cli import launch
from qdet.search import Each

job = Job(
    name="adamixer_r50_ablation_sampling",
    detector=AdaMixerConfig(
        backbone=ResNetConfig(depth=50, norm="eval"),
        queries=100,
        sampling="2d",
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
        "detector.sampling": Each(("c3", "c4", "c5", "roi-align", "2d", "3d")),
    },
)

if __name__ == "__main__":
    launch(job, sweep=sweep)
