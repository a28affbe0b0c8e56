#!/usr/bin/env python
"""Multi-scale SMCA-DETR with ResNet-50, 50 epochs; also 108 epochs, and with ResNet-101.

    python jobs/smca_r50_multi_scale.py
    python jobs/smca_r50_multi_scale.py --variant r101
    python jobs/smca_r50_multi_scale.py --demo --sweep --sweep.trials 3
    python jobs/smca_r50_multi_scale.py --table encoder

Paper: https://arxiv.org/abs/2101.07448
"""

from qdet import (
    FOCAL_DETR_LOSS,
    AugmentConfig,
    DataConfig,
    Job,
    MultiScaleSMCAConfig,
    OptimConfig,
    Published,
    ResNetConfig,
    Sweep,
    Table,
    TrainConfig,
    Variant,
    launch,
)
from qdet.search import Choice, LogUniform

job = Job(
    name="smca_r50_multi_scale",
    detector=MultiScaleSMCAConfig(
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

published = Published(ap=43.7, columns=(63.6, 47.2, 24.2, 47.0, 60.4), params=40, macs=152, classes=92)

variants = {
    "108ep": Variant(
        name="smca_r50_multi_scale_108ep",
        changes={"optim.drop_epochs": (80,), "train.epochs": 108},
        published=Published(ap=45.6, columns=(None, None, 25.9, None, 62.6), params=40, macs=152, classes=92),
    ),
    "r101": Variant(
        name="smca_r101_multi_scale",
        changes={"detector.backbone.depth": 101},
        published=Published(ap=44.4, columns=(65.2, 48.5, 24.3, 48.5, 61.0), params=58, macs=218, classes=92),
    ),
}

tables = {
    "encoder": Table(
        "detector.encoder",
        {
            ("intra", "intra", "multi", "intra", "intra"): 43.7,
            ("intra",) * 5: 43.3,
            ("intra",) * 3: None,  # below that of five
            ("multi",) * 3: None,  # above that of three within scales
        },
    ),
    "scale_selection": Table("detector.scale_selection", {True: 43.7, False: 42.6}),
    "shared_scales": Table("detector.shared_scales", {True: 43.7, False: None}),  # sharing is better
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
    launch(job, sweep=sweep, published=published, variants=variants, tables=tables)
