#!/usr/bin/env python
"""DETR with ResNet-50, 500 epochs; also with ResNet-101, DC5, 50 epochs and the focal loss.

    python jobs/detr_r50.py
    python jobs/detr_r50.py --variant r101_dc5
    python jobs/detr_r50.py --demo --sweep --sweep.trials 3

DAB-DETR's paper asks whether queries are what DETR learns slowly, by keeping those of a trained DETR:

    python jobs/detr_r50.py --store.init-from RUN --store.init-parts position --train.freeze position

Paper: https://arxiv.org/abs/2005.12872 and, for the short schedule, https://arxiv.org/abs/2108.06152.
Batch size and drop of 50 epochs are those of that paper's own 50 epochs. DC5+ (`--variant dc5_plus`) is from
table 1 of https://arxiv.org/abs/2010.04159: DETR-DC5 under Deformable DETR's settings, with its loss, 300
queries, learning rate and batch. `--variant skip_first` leaves out the attention between queries that have no
content yet, which the first paper allows.

The published AP of DC5 holds for one image per worker: padding changes what DC5 predicts.
"""

from qdet import (
    DETR_LOSS,
    FOCAL_DETR_LOSS,
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

published = Published(
    ap=42.0,
    columns=(62.4, 44.2, 20.5, 45.8, 61.1),
    params=41,
    macs=86,
    fps=28,
    gpu_hours=2000,
    classes=91,
)

ALONE = {"data.pad": "rank", "eval.batch_size": 1}  # of one image per worker, none is padded

variants = {
    "dc5": Variant(
        name="detr_r50_dc5",
        changes={
            "detector.backbone.dilate_c5": True,
            **ALONE,
            "train.workers": 64,  # 1 image on each
        },
        published=Published(
            ap=43.3,
            columns=(63.1, 45.9, 22.5, 47.3, 61.1),
            params=41,
            macs=187,
            fps=12,
            gpu_hours=7000,
            classes=91,
        ),
    ),
    "r101": Variant(
        name="detr_r101",
        changes={"detector.backbone.depth": 101},
        published=Published(ap=43.5, columns=(None, None, 21.0, 48.0, 61.8), params=60, macs=152, classes=91),
    ),
    "r101_dc5": Variant(
        name="detr_r101_dc5",
        changes={
            "detector.backbone.depth": 101,
            "detector.backbone.dilate_c5": True,
            **ALONE,
            "train.workers": 64,  # 1 image on each
        },
        published=Published(ap=44.9, columns=(64.7, 47.7, 23.7, 49.5, 62.3), params=60, macs=253, classes=91),
    ),
    "50ep": Variant(
        name="detr_r50_50ep",
        changes={
            "optim.drop_epochs": (40,),
            "train.epochs": 50,
            "train.batch_size": 16,  # 2 images on each of 8 GPUs
        },
        published=Published(
            ap=34.8,
            columns=(None, None, 13.9, 37.3, 54.4),
            source="Conditional DETR's paper",
            params=41,
            macs=86,
            classes=91,
        ),
    ),
    "r101_50ep": Variant(
        name="detr_r101_50ep",
        changes={
            "detector.backbone.depth": 101,
            "optim.drop_epochs": (40,),
            "train.epochs": 50,
            "train.batch_size": 16,  # 2 images on each of 8 GPUs
        },
        published=Published(
            ap=36.9,
            columns=(None, None, 15.5, 40.6, 55.6),
            source="Conditional DETR's paper",
            params=60,
            macs=152,
            classes=91,
        ),
    ),
    "dc5_50ep": Variant(
        name="detr_r50_dc5_50ep",
        changes={
            "detector.backbone.dilate_c5": True,
            **ALONE,
            "optim.drop_epochs": (40,),
            "train.epochs": 50,
            "train.batch_size": 16,  # 1 image on each of 16 GPUs
            "train.workers": 16,
        },
        published=Published(
            ap=35.3,
            columns=(55.7, 36.8, 15.2, 37.5, 53.6),
            source="Deformable DETR's paper",
            params=41,
            macs=187,
            fps=12,
            gpu_hours=700,
            classes=91,
        ),
    ),
    "dc5_plus": Variant(
        name="detr_r50_dc5_plus",
        says="focal loss, 300 queries",
        changes={
            "detector.backbone.dilate_c5": True,
            "detector.scores": "sigmoid",
            "detector.queries": 300,
            "loss": FOCAL_DETR_LOSS,
            "optim.lr": 2e-4,
            "optim.drop_epochs": (40,),
            "train.epochs": 50,
            "train.batch_size": 32,  # 1 image on each of 32 GPUs
            "train.workers": 32,
        },
        published=Published(
            ap=36.2,
            columns=(57.0, 37.4, 16.3, 39.2, 53.9),
            source="Deformable DETR's paper",
            params=41,
            macs=187,
            fps=12,
            gpu_hours=700,
            classes=91,
        ),
    ),
    "skip_first": Variant(
        name="detr_r50_skip_first",
        says="without the first attention between queries",
        changes={"detector.skip_first": True},
        published=Published(classes=91),
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
