#!/usr/bin/env python
"""Efficient DETR with ResNet-50 and six encoder layers, 36 epochs. The paper: 45.1 AP on COCO val2017.

    python jobs/efficient_detr_r50_6enc.py
    python jobs/efficient_detr_r50_6enc.py --demo --sweep --sweep.trials 3

The paper gives the epochs. Batch and learning rates are those of DETR's other kin, with Deformable DETR's
tenth for sampling offsets; the drop after two thirds is the usual one of 36 epochs.

Paper: https://arxiv.org/abs/2104.01318
"""

from qdet.backbones import ResNetConfig
from qdet.data.augment import AugmentConfig
from qdet.detectors import EfficientDETRConfig
from qdet.job import DataConfig, Job, OptimConfig, Sweep, TrainConfig
from qdet.launching.cli import launch
from qdet.losses import FOCAL_DETR
from qdet.search import Choice, LogUniform

job = Job(
    name="efficient_detr_r50_6enc",
    detector=EfficientDETRConfig(
        backbone=ResNetConfig(depth=50),
        encoder_layers=6,
        queries=100,
        proposals_start=300,
    ),
    loss=FOCAL_DETR,
    data=DataConfig(augment=AugmentConfig(crop=True, pad_multiple=1)),
    optim=OptimConfig(
        lr=1e-4,
        lr_multipliers=((r"^backbone\.", 0.1), (r"sampling_offsets", 0.1)),
        drop_epochs=(24,),
        warmup_steps=0,
        clip_norm=0.1,
    ),
    train=TrainConfig(
        epochs=36,
        batch_size=16,  # 2 images on each of 8 GPUs
        workers=8,
    ),
)

sweep = Sweep(
    metric="val/AP",
    trials=12,
    space={
        "optim.lr": LogUniform(5e-5, 4e-4),
        "detector.proposals_start": Choice((100, 300)),
        "detector.decoder_layers": Choice((1, 2, 3)),
    },
)

if __name__ == "__main__":
    launch(job, sweep=sweep)
