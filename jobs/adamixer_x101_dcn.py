#!/usr/bin/env python
"""AdaMixer with ResNeXt-101-DCN: 300 queries, 36 epochs, random crops. The paper: 49.5 AP on COCO val2017.

    python jobs/adamixer_x101_dcn.py

Paper: https://arxiv.org/abs/2203.16507
"""

from qdet.backbones import ResNeXtDCNConfig
from qdet.data.augment import AugmentConfig
from qdet.detectors import AdaMixerConfig
from qdet.job import DataConfig, Job, OptimConfig, Sweep, TrainConfig
from qdet.launching.cli import launch
from qdet.search import Choice, LogUniform

job = Job(
    name="adamixer_x101_dcn",
    detector=AdaMixerConfig(
        backbone=ResNeXtDCNConfig(),
        queries=300,
    ),
    data=DataConfig(augment=AugmentConfig(crop=True)),
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
