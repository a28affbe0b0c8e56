#!/usr/bin/env python
"""Conditional DETR with ResNet-50, 50 epochs; also with ResNet-101, DC5, 108 epochs and Group DETR's groups.

    python jobs/conditional_detr_r50.py
    python jobs/conditional_detr_r50.py --variant r101_dc5
    python jobs/conditional_detr_r50.py --variant groups_12ep
    python jobs/conditional_detr_r50.py --demo --sweep --sweep.trials 3

Paper: https://arxiv.org/abs/2108.06152

The published AP of DC5 holds for one image per worker: padding changes what DC5 predicts.
"""

from qdet import (
    FOCAL_DETR_LOSS,
    AugmentConfig,
    ConditionalDETRConfig,
    DataConfig,
    Job,
    OneToManyConfig,
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
    name="conditional_detr_r50",
    detector=ConditionalDETRConfig(
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
        batch_size=16,  # 2 images on each of 8 GPUs
        workers=8,
        zero=1,
    ),
)

published = Published(
    ap=41.0,
    columns=(None, None, 20.6, 44.3, 59.3),
    source="the authors' release",
    params=44,
    macs=90,
    classes=91,
)

ALONE = {"data.pad": "rank", "eval.batch_size": 1}  # of one image per worker, none is padded

variants = {
    "groups_12ep": Variant(
        name="conditional_detr_r50_groups_12ep",
        says="Group DETR",
        changes={
            "detector.one_to_many": OneToManyConfig(kind="groups", groups=11),
            "detector.detections": 300,
            "train.epochs": 12,
            "optim.drop_epochs": (11,),
        },
        published=Published(ap=37.8, source="detrex's README"),
    ),
    "dc5": Variant(
        name="conditional_detr_r50_dc5",
        changes={
            "detector.backbone.dilate_c5": True,
            **ALONE,
            "train.batch_size": 8,  # 1 image on each of 8 GPUs
        },
        published=Published(
            ap=43.7,
            columns=(None, None, 23.9, 47.6, 60.1),
            source="the authors' release",
            params=44,
            macs=195,
            classes=91,
        ),
    ),
    "r101": Variant(
        name="conditional_detr_r101",
        changes={"detector.backbone.depth": 101},
        published=Published(
            ap=42.8,
            columns=(None, None, 21.7, 46.6, 60.9),
            source="the authors' release",
            params=63,
            macs=156,
            classes=91,
        ),
    ),
    "r101_dc5": Variant(
        name="conditional_detr_r101_dc5",
        changes={
            "detector.backbone.depth": 101,
            "detector.backbone.dilate_c5": True,
            **ALONE,
            "train.batch_size": 8,  # 1 image on each of 8 GPUs
        },
        published=Published(
            ap=45.0,
            columns=(None, None, 26.1, 48.9, 62.8),
            source="the authors' release",
            params=63,
            macs=262,
            classes=91,
        ),
    ),
    "dc5_108ep": Variant(
        name="conditional_detr_r50_dc5_108ep",
        changes={
            "detector.backbone.dilate_c5": True,
            **ALONE,
            "optim.drop_epochs": (80,),
            "train.epochs": 108,
            "train.batch_size": 8,  # 1 image on each of 8 GPUs
        },
        published=Published(ap=45.1, columns=(65.4, 48.5, 25.3, 49.0, 62.2), params=44, macs=195, classes=91),
    ),
    "r101_dc5_108ep": Variant(
        name="conditional_detr_r101_dc5_108ep",
        changes={
            "detector.backbone.depth": 101,
            "detector.backbone.dilate_c5": True,
            **ALONE,
            "optim.drop_epochs": (80,),
            "train.epochs": 108,
            "train.batch_size": 8,  # 1 image on each of 8 GPUs
        },
        published=Published(ap=45.9, columns=(66.8, 49.5, 27.2, 50.3, 63.3), params=63, macs=262, classes=91),
    ),
}

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
    launch(job, sweep=sweep, published=published, variants=variants)
