#!/usr/bin/env python
"""Anchor DETR-DC5 with ResNet-50, 50 epochs; also with ResNet-101.

    python jobs/anchor_detr_r50_dc5.py
    python jobs/anchor_detr_r50_dc5.py --variant r101
    python jobs/anchor_detr_r50_dc5.py --demo --sweep --sweep.trials 3

Paper: https://arxiv.org/abs/2109.07107

The authors trained with one image per worker: padding changes what Anchor DETR predicts.
"""

from qdet import (
    FOCAL_DETR_LOSS,
    AnchorDETRConfig,
    AugmentConfig,
    DataConfig,
    EvalConfig,
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
    name="anchor_detr_r50_dc5",
    detector=AnchorDETRConfig(
        backbone=ResNetConfig(depth=50, dilate_c5=True),
        points=300,
        patterns=3,
    ),
    loss=FOCAL_DETR_LOSS,
    data=DataConfig(augment=AugmentConfig(crop=True, pad_multiple=1), pad="rank"),
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
    eval=EvalConfig(batch_size=1),
)

published = Published(  # the first version of the paper has 44.2 AP and 151 GMACs
    ap=44.3,
    source="the authors' code",
    macs=172,
    fps=16,
    classes=91,
)

variants = {
    "r101": Variant(
        name="anchor_detr_r101_dc5",
        changes={"detector.backbone.depth": 101},
        published=Published(ap=45.1, classes=91),
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
