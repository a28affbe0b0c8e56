#!/usr/bin/env python
"""DAB-DETR-DC5 with ResNet-50, 50 epochs. The paper: 44.5 AP on COCO val2017.

    python jobs/dab_detr_r50_dc5.py
    python jobs/dab_detr_r50_dc5.py --demo --sweep --sweep.trials 3

Paper: https://arxiv.org/abs/2201.12329

The published AP holds for one image per worker: padding changes what DC5 predicts.
"""

from qdet.backbones import ResNetConfig
from qdet.data.augment import AugmentConfig
from qdet.detectors import DABDETRConfig
from qdet.job import DataConfig, Job, OptimConfig, Sweep, TrainConfig
from qdet.launching.cli import launch
from qdet.losses import DAB_DETR
from qdet.search import Choice, LogUniform

job = Job(
    name="dab_detr_r50_dc5",
    detector=DABDETRConfig(
        backbone=ResNetConfig(depth=50, dilate_c5=True),
        anchors=300,
    ),
    loss=DAB_DETR,
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
        "detector.anchors": Choice((100, 300)),
        "detector.query_temperature": LogUniform(2.0, 10_000.0),
    },
)

if __name__ == "__main__":
    launch(job, sweep=sweep)
