#!/usr/bin/env python
"""AdaMixer's ablation of adaptability. Queries write how to mix but not where to sample: 40.4 AP.

    python jobs/adamixer_r50_ablation_adaptive.py
    python jobs/adamixer_r50_ablation_adaptive.py --sweep
    python jobs/adamixer_r50_ablation_adaptive.py --demo --sweep

    adaptive        none  location  content  both
    AP (val2017)    35.7  37.3      40.4     42.7

The first command trains the model with adaptive content alone, the second every row of the table.
Paper: https://arxiv.org/abs/2203.16507
"""

from qdet.backbones import ResNetConfig
from qdet.data.augment import AugmentConfig
from qdet.detectors import AdaMixerConfig
from qdet.job import DataConfig, Job, OptimConfig, Sweep, TrainConfig
from qdet.launching.cli import launch
from qdet.search import Each

job = Job(
    name="adamixer_r50_ablation_adaptive",
    detector=AdaMixerConfig(
        backbone=ResNetConfig(depth=50, norm="eval"),
        queries=100,
        adaptive="content",
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
        "detector.adaptive": Each(("none", "location", "content", "both")),
    },
)

if __name__ == "__main__":
    launch(job, sweep=sweep)
