#!/usr/bin/env python
"""DAB-DETR with ResNet-101, 50 epochs. The paper: 43.5 AP on COCO val2017.

    python jobs/dab_detr_r101.py
    python jobs/dab_detr_r101.py --demo --sweep --sweep.trials 3

Paper: https://arxiv.org/abs/2201.12329
"""

from qdet.backbones import ResNetConfig
from qdet.data.augment import AugmentConfig
from qdet.detectors import DABDETRConfig
from qdet.job import DataConfig, Job, OptimConfig, Sweep, TrainConfig
from qdet.launching.cli import launch
from qdet.losses import DAB_DETR
from qdet.search import Choice, LogUniform

job = Job(
    name="dab_detr_r101",
    detector=DABDETRConfig(
        backbone=ResNetConfig(depth=101),
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
