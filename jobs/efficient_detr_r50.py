#!/usr/bin/env python
"""Efficient DETR with ResNet-50, 36 epochs; also with six encoder layers, and with ResNet-101.

    python jobs/efficient_detr_r50.py
    python jobs/efficient_detr_r50.py --variant r101_6enc
    python jobs/efficient_detr_r50.py --demo --sweep --sweep.trials 3

What one or six decoder layers make of other first references and contents of queries, boxes or points:

    python jobs/efficient_detr_r50.py --table reference
    python jobs/efficient_detr_r50.py --variant 6dec --table reference
    python jobs/efficient_detr_r50.py --table content --detector.reference-dims 2

The paper gives the epochs. Batch and learning rates are those of DETR's other kin, with Deformable DETR's
tenth for sampling offsets; the drop after two thirds is the usual one of 36 epochs.

Paper: https://arxiv.org/abs/2104.01318
"""

from qdet import (
    FOCAL_DETR_LOSS,
    AugmentConfig,
    DataConfig,
    EfficientDETRConfig,
    Job,
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
    name="efficient_detr_r50",
    detector=EfficientDETRConfig(
        backbone=ResNetConfig(depth=50),
        encoder_layers=3,
        queries=100,
        proposals_start=300,
    ),
    loss=FOCAL_DETR_LOSS,
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
        zero=1,
    ),
)

published = Published(ap=44.2, columns=(62.2, 48.0, 28.4, 47.5, 56.6), params=32, macs=159, classes=91)

variants = {
    "6enc": Variant(
        name="efficient_detr_r50_6enc",
        says="6 encoder layers",
        changes={"detector.encoder_layers": 6},
        published=Published(ap=45.1, columns=(63.1, 49.1, 28.3, 48.4, 59.0), params=35, macs=210, classes=91),
    ),
    "r101": Variant(
        name="efficient_detr_r101",
        changes={"detector.backbone.depth": 101},
        published=Published(ap=45.2, columns=(63.7, 48.8, 28.8, 49.1, 59.0), params=51, macs=239, classes=91),
    ),
    "r101_6enc": Variant(
        name="efficient_detr_r101_6enc",
        says="6 encoder layers",
        changes={"detector.backbone.depth": 101, "detector.encoder_layers": 6},
        published=Published(ap=45.7, columns=(64.1, 49.5, 28.2, 49.1, 60.2), params=54, macs=289, classes=91),
    ),
    "6dec": Variant(
        name="efficient_detr_r50_6dec",
        says="6 decoder layers",
        changes={"detector.decoder_layers": 6},
        published=Published(classes=91),
    ),
}

tables = {  # the paper says that one layer needs good references and six do not; its APs are not known here
    "reference": Table(
        "detector.reference", {"learned": None, "image": None, "grid": None, "proposals": 44.2}
    ),
    "reference_dims": Table("detector.reference_dims", {2: None, 4: 44.2}),
    "content": Table("detector.content", {"learned": None, "tokens": 44.2}),
}

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
    launch(job, sweep=sweep, published=published, variants=variants, tables=tables)
