#!/usr/bin/env python
"""DETR with ResNet-50, 500 epochs; also with ResNet-101, DC5 and 50 epochs.

    python jobs/detr_r50.py
    python jobs/detr_r50.py --variant r101_dc5
    python jobs/detr_r50.py --demo --sweep --sweep.trials 3

Paper: https://arxiv.org/abs/2005.12872 and, for the short schedule, https://arxiv.org/abs/2108.06152.
Batch size and drop of 50 epochs are those of that paper's own 50 epochs.

The published AP of DC5 holds for one image per worker: padding changes what DC5 predicts.
"""

from qdet import (
    DETR_LOSS,
    AugmentConfig,
    DataConfig,
    DETRConfig,
    Job,
    OptimConfig,
    Published,
    ResNetConfig,
    Sweep,
    TrainConfig,
    Variant,
    launch,
)
from qdet.search import Choice, LogUniform

job = Job(
    name="detr_r50",
    detector=DETRConfig(
        backbone=ResNetConfig(depth=50),
        queries=100,
    ),
    loss=DETR_LOSS,
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
        zero=1,
    ),
)

published = Published(ap=42.0, params=41, macs=86, classes=91)

variants = {
    "dc5": Variant(
        name="detr_r50_dc5",
        changes={
            "detector.backbone.dilate_c5": True,
            "train.workers": 64,  # 1 image on each
        },
        published=Published(ap=43.3, params=41, macs=187, classes=91),
    ),
    "r101": Variant(
        name="detr_r101",
        changes={"detector.backbone.depth": 101},
        published=Published(ap=43.5, params=60, macs=152, classes=91),
    ),
    "r101_dc5": Variant(
        name="detr_r101_dc5",
        changes={
            "detector.backbone.depth": 101,
            "detector.backbone.dilate_c5": True,
            "train.workers": 64,  # 1 image on each
        },
        published=Published(ap=44.9, params=60, macs=253, classes=91),
    ),
    "50ep": Variant(
        name="detr_r50_50ep",
        changes={
            "optim.drop_epochs": (40,),
            "train.epochs": 50,
            "train.batch_size": 16,  # 2 images on each of 8 GPUs
        },
        published=Published(ap=34.8, source="Conditional DETR's paper", params=41, macs=86, classes=91),
    ),
    "r101_50ep": Variant(
        name="detr_r101_50ep",
        changes={
            "detector.backbone.depth": 101,
            "optim.drop_epochs": (40,),
            "train.epochs": 50,
            "train.batch_size": 16,  # 2 images on each of 8 GPUs
        },
        published=Published(ap=36.9, source="Conditional DETR's paper", params=60, macs=152, classes=91),
    ),
    "dc5_50ep": Variant(
        name="detr_r50_dc5_50ep",
        changes={
            "detector.backbone.dilate_c5": True,
            "optim.drop_epochs": (40,),
            "train.epochs": 50,
            "train.batch_size": 16,  # 1 image on each of 16 GPUs
            "train.workers": 16,
        },
        published=Published(ap=35.3, source="Conditional DETR's paper", params=41, macs=187, classes=91),
    ),
}

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
    launch(job, sweep=sweep, published=published, variants=variants)
