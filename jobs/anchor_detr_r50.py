#!/usr/bin/env python
"""Anchor DETR with ResNet-50, 50 epochs; also with ResNet-101 and with plain attention.

    python jobs/anchor_detr_r50.py
    python jobs/anchor_detr_r50.py --variant r101
    python jobs/anchor_detr_r50.py --demo --sweep --sweep.trials 3

Paper: https://arxiv.org/abs/2109.07107

The authors trained with one image per worker: padding changes what Anchor DETR predicts.
"""

from qdet import (
    FOCAL_DETR_LOSS,
    AnchorDETRConfig,
    AugmentConfig,
    DataConfig,
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
    name="anchor_detr_r50",
    detector=AnchorDETRConfig(
        backbone=ResNetConfig(depth=50),
        points=300,
        patterns=3,
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

published = Published(ap=42.1, classes=91)

variants = {
    "r101": Variant(
        name="anchor_detr_r101",
        changes={"detector.backbone.depth": 101},
        published=Published(ap=43.5, classes=91),
    ),
    "attention": Variant(  # an ablation
        name="anchor_detr_r50_attention",
        says="plain attention",
        changes={"detector.attention": "plain"},
        published=Published(classes=91),
    ),
}

sweep = Sweep(
    metric="val/AP",
    trials=12,
    space={
        "optim.lr": LogUniform(5e-5, 4e-4),
        "detector.points": Choice((100, 300)),
        "detector.patterns": Choice((1, 3)),
    },
)

if __name__ == "__main__":
    launch(job, sweep=sweep, published=published, variants=variants)
