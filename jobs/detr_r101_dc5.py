#!/usr/bin/env python
"""DETR-DC5 with ResNet-101, 500 epochs. The paper: 44.9 AP on COCO val2017.

    python jobs/detr_r101_dc5.py
    python jobs/detr_r101_dc5.py --demo --sweep --sweep.trials 3

Paper: https://arxiv.org/abs/2005.12872

The published AP holds for one image per worker: padding changes what DC5 predicts.
"""

from qdet.backbones import ResNetConfig
from qdet.data.augment import AugmentConfig
from qdet.detectors import DETRConfig
from qdet.job import DataConfig, Job, OptimConfig, Sweep, TrainConfig
from qdet.launching.cli import launch
from qdet.losses import DETR
from qdet.search import Choice, LogUniform

job = Job(
    name="detr_r101_dc5",
    detector=DETRConfig(
        backbone=ResNetConfig(depth=101, dilate_c5=True),
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
        batch_size=64,  # 1 image on each of 64 GPUs
        workers=64,
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
