#!/usr/bin/env python
"""Conditional DETR-DC5 with ResNet-101, 50 epochs. The authors' release: 45.0 AP on COCO val2017.

    python jobs/conditional_detr_r101_dc5.py
    python jobs/conditional_detr_r101_dc5.py --demo --sweep --sweep.trials 3

Paper: https://arxiv.org/abs/2108.06152

The published AP holds for one image per worker: padding changes what DC5 predicts.
"""

from qdet.backbones import ResNetConfig
from qdet.data.augment import AugmentConfig
from qdet.detectors import ConditionalDETRConfig
from qdet.job import DataConfig, Job, OptimConfig, Sweep, TrainConfig
from qdet.launching.cli import launch
from qdet.losses import FOCAL_DETR
from qdet.search import Choice, LogUniform

job = Job(
    name="conditional_detr_r101_dc5",
    detector=ConditionalDETRConfig(
        backbone=ResNetConfig(depth=101, dilate_c5=True),
        queries=300,
    ),
    loss=FOCAL_DETR,
    data=DataConfig(augment=AugmentConfig(crop=True, pad_multiple=1)),
    optim=OptimConfig(
        lr=1e-4,
        lr_multipliers=((r"^backbone\.", 0.1),),
        drop_epochs=(40,),
        warmup_steps=0,
        clip_norm=0.1,
    ),
    train=TrainConfig(
        epochs=50,
        batch_size=8,  # 1 image on each of 8 GPUs
        workers=8,
    ),
)

sweep = Sweep(
    metric="val/AP",
    trials=12,
    space={
        "optim.lr": LogUniform(5e-5, 4e-4),
        "detector.queries": Choice((100, 300)),
        "detector.dropout": Choice((0.0, 0.1)),
    },
)

if __name__ == "__main__":
    launch(job, sweep=sweep)
