#!/usr/bin/env python
"""Convolutional SMCA-DETR with ResNet-50, 50 epochs.

    python jobs/smca_r50_multi_scale_conv.py
    python jobs/smca_r50_multi_scale_conv.py --demo --sweep --sweep.trials 3

Paper: https://arxiv.org/abs/2101.07448
Code: https://github.com/gaopengcuhk/SMCA-DETR, `Multi_scale_SMCA.zip`
"""

from qdet import (
    FOCAL_DETR_LOSS,
    AugmentConfig,
    ConvSMCAConfig,
    DataConfig,
    Job,
    OptimConfig,
    Published,
    ResNetConfig,
    Sweep,
    TrainConfig,
    launch,
)
from qdet.search import Choice, LogUniform

job = Job(
    name="smca_r50_multi_scale_conv",
    detector=ConvSMCAConfig(
        backbone=ResNetConfig(depth=50),
        queries=300,
    ),
    loss=FOCAL_DETR_LOSS,
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
        zero=1,
    ),
)

published = Published(ap=44.4, source="the authors' log", classes=92)

sweep = Sweep(
    metric="val/AP",
    trials=12,
    space={
        "optim.lr": LogUniform(5e-5, 4e-4),
        "detector.queries": Choice((100, 300)),
        "detector.kernel": Choice((3, 5, 7)),
    },
)

if __name__ == "__main__":
    launch(job, sweep=sweep, published=published)
