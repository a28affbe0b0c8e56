#!/usr/bin/env python
"""DETR with ResNet-101, 500 epochs. The paper: 43.5 AP on COCO val2017.

    python jobs/detr_r101.py
    python jobs/detr_r101.py --demo --sweep --sweep.trials 3

Paper: https://arxiv.org/abs/2005.12872
"""

from qdet.backbones import ResNetConfig
from qdet.data.augment import AugmentConfig
from qdet.detectors import DETRConfig
from qdet.job import DataConfig, Job, OptimConfig, Sweep, TrainConfig
from qdet.launching.cli import launch
from qdet.losses import DETR
from qdet.search import Choice, LogUniform

job = Job(
    name="detr_r101",
    detector=DETRConfig(
        backbone=ResNetConfig(depth=101),
        queries=100,
    ),
    loss=DETR,
    data=DataConfig(augment=AugmentConfig(crop=True, pad_multiple=1)),
    optim=OptimConfig(
        lr=1e-4,
        lr_multipliers=((r"^backbone\.", 0.1),),
        drop_epochs=(400,),
        warmup_steps=0,
        clip_norm=0.1,
    ),
    train=TrainConfig(
        epochs=500,
        batch_size=64,  # 8 images on each of 8 GPUs
        workers=8,
    ),
)

sweep = Sweep(
    metric="val/AP",
    trials=12,
    space={
        "optim.lr": LogUniform(5e-5, 4e-4),
        "detector.queries": Choice((50, 100, 300)),
        "loss.no_object": LogUniform(0.03, 0.3),
    },
)

if __name__ == "__main__":
    launch(job, sweep=sweep)
