#!/usr/bin/env python
"""DN-DETR with ResNet-50, 50 epochs: DAB-DETR trained with denoising; also with patterns, ResNet-101 and DC5.

    python jobs/dn_detr_r50.py
    python jobs/dn_detr_r50.py --variant dc5_3pat_12ep
    python jobs/dn_detr_r50.py --detector.denoising.kind contrastive
    python jobs/dn_detr_r50.py --demo --sweep --sweep.trials 3

Paper: https://arxiv.org/abs/2203.01305

Groups are those of each image. `--detector.denoising.grouping batch` is the authors' way, whose result
depends on the number of workers: docs/denoising.md.
"""

from qdet import (
    DAB_DETR_LOSS,
    DN_DETR_DENOISING,
    AugmentConfig,
    DABDETRConfig,
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
from qdet.search import Choice, LogUniform, Uniform

job = Job(
    name="dn_detr_r50",
    detector=DABDETRConfig(
        backbone=ResNetConfig(depth=50),
        anchors=300,
        denoising=DN_DETR_DENOISING,
    ),
    loss=DAB_DETR_LOSS,
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
    ),
)

README = "the authors' README"
published = Published(ap=44.4, params=44, macs=94, source=README, classes=91)

DC5 = {"detector.backbone.dilate_c5": True}
TWELVE = {"train.epochs": 12, "optim.drop_epochs": (11,)}

variants = {
    "3pat": Variant(
        name="dn_detr_r50_3pat",
        says="3 patterns",
        changes={"detector.patterns": 3},
        published=Published(params=44, classes=91),
    ),
    "dc5": Variant(
        name="dn_detr_r50_dc5",
        changes=DC5,
        published=Published(ap=46.3, params=44, macs=202, source=README, classes=91),
    ),
    "dc5_3pat_12ep": Variant(
        name="dn_detr_r50_dc5_3pat_12ep",
        says="3 patterns",
        changes=DC5 | TWELVE | {"detector.patterns": 3},
        published=Published(ap=41.7, source=README, classes=91),
    ),
    "r101": Variant(
        name="dn_detr_r101",
        changes={"detector.backbone.depth": 101},
        published=Published(ap=45.2, params=63, macs=174, classes=91),
    ),
    "r101_dc5": Variant(
        name="dn_detr_r101_dc5",
        changes=DC5 | {"detector.backbone.depth": 101},
        published=Published(ap=47.3, params=63, macs=282, classes=91),
    ),
    "r101_dc5_3pat_12ep": Variant(
        name="dn_detr_r101_dc5_3pat_12ep",
        says="3 patterns",
        changes=DC5 | TWELVE | {"detector.patterns": 3, "detector.backbone.depth": 101},
        published=Published(ap=42.8, source=README, classes=91),
    ),
}

sweep = Sweep(
    metric="val/AP",
    trials=12,
    space={
        "optim.lr": LogUniform(5e-5, 4e-4),
        "detector.denoising.groups": Choice((1, 5, 10)),
        "detector.denoising.box_noise": Uniform(0.2, 1.0),
    },
)

if __name__ == "__main__":
    launch(job, sweep=sweep, published=published, variants=variants)
