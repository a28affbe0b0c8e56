#!/usr/bin/env python
"""DETR-DC5 with ResNet-50, 50 epochs. Conditional DETR's paper: 35.3 AP on COCO val2017.

    python jobs/detr_r50_dc5_50ep.py
    python jobs/detr_r50_dc5_50ep.py --demo --sweep --sweep.trials 3

Paper: https://arxiv.org/abs/2005.12872 and, for the short schedule, https://arxiv.org/abs/2108.06152.
Batch size and drop are those of that paper's own 50 epochs.
"""

from qdet.backbones import ResNetConfig
from qdet.data.augment import AugmentConfig
from qdet.detectors import DETRConfig
from qdet.job import DataConfig, Job, OptimConfig, Sweep, TrainConfig
from qdet.launching.cli import launch
from qdet.losses import DETR
from qdet.search import Choice, LogUniform

job = Job(
    name="detr_r50_dc5_50ep",
    detector=DETRConfig(
        backbone=ResNetConfig(depth=50, dilate_c5=True),
        queries=100,
    ),
    loss=DETR,
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
        batch_size=16,  # 1 image on each of 16 GPUs
        workers=16,
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
