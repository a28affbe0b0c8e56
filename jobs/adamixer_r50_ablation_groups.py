#!/usr/bin/env python
"""AdaMixer's ablation of groups, which channels are sampled and mixed in: two of them instead of four.

    python jobs/adamixer_r50_ablation_groups.py
    python jobs/adamixer_r50_ablation_groups.py --sweep
    python jobs/adamixer_r50_ablation_groups.py --demo --sweep

    groups                   1    2    4    8
    parameters (millions)    191  148  135  149
    GFLOPs                   111  106  104  106

The first command trains the model of two groups, the second every row of the table. Its numbers are the
paper's; of the APs only that of four groups is known here, 42.7.
Paper: https://arxiv.org/abs/2203.16507
"""

from qdet.backbones import ResNetConfig
from qdet.data.augment import AugmentConfig
from qdet.detectors import AdaMixerConfig
from qdet.job import DataConfig, Job, OptimConfig, Sweep, TrainConfig
from qdet.launching.cli import launch
from qdet.search import Each

job = Job(
    name="adamixer_r50_ablation_groups",
    detector=AdaMixerConfig(
        backbone=ResNetConfig(depth=50, norm="eval"),
        queries=100,
        groups=2,
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
        "detector.groups": Each((1, 2, 4, 8)),
    },
)

if __name__ == "__main__":
    launch(job, sweep=sweep)
