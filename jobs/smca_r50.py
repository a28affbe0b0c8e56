#!/usr/bin/env python
"""SMCA-DETR with ResNet-50 on one scale, 50 epochs; also 108 epochs, and simpler Gaussians.

    python jobs/smca_r50.py
    python jobs/smca_r50.py --variant 108ep
    python jobs/smca_r50.py --demo --sweep --sweep.trials 3
    python jobs/smca_r50.py --table batch

The paper trains with 1 image on each of 8 GPUs and says that the batch matters little; the command that its
authors published, 25 hours for 50 epochs, has 2.

Paper: https://arxiv.org/abs/2101.07448
"""

from qdet import (
    FOCAL_DETR_LOSS,
    AugmentConfig,
    DataConfig,
    Job,
    OptimConfig,
    Published,
    ResNetConfig,
    SMCAConfig,
    Sweep,
    Table,
    TrainConfig,
    Variant,
    launch,
)
from qdet.search import Choice, LogUniform

job = Job(
    name="smca_r50",
    detector=SMCAConfig(
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

published = Published(ap=41.0, hours=25, classes=92)

variants = {
    "108ep": Variant(
        name="smca_r50_108ep",
        changes={"optim.drop_epochs": (80,), "train.epochs": 108},
        published=Published(ap=42.7, classes=92),
    ),
    "fixed_scale": Variant(
        name="smca_r50_fixed_scale",
        says="Gaussians of one size",
        changes={"detector.sharpness": "fixed"},
        published=Published(ap=38.5, classes=92),
    ),
    "one_scale": Variant(
        name="smca_r50_one_scale",
        says="Gaussians as high as wide",
        changes={"detector.sharpness": "one"},
        published=Published(classes=92),
    ),
    "head_shared": Variant(
        name="smca_r50_head_shared",
        says="one Gaussian for all heads",
        changes={"detector.head_shared": True},
        published=Published(ap=40.2, classes=92),
    ),
}

tables = {
    "batch": Table("train.batch_size", {8: 41.0, 16: None, 32: None}),
    "sharpness": Table(
        "detector.sharpness", {"fixed": 38.5, "one": None, "independent": 41.0, "product": None}
    ),
}

sweep = Sweep(
    metric="val/AP",
    trials=12,
    space={
        "optim.lr": LogUniform(5e-5, 4e-4),
        "detector.queries": Choice((100, 300)),
        "detector.sharpness": Choice(("fixed", "one", "independent", "product")),
    },
)

if __name__ == "__main__":
    launch(job, sweep=sweep, published=published, variants=variants, tables=tables)
