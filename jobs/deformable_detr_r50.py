#!/usr/bin/env python
"""Deformable DETR with ResNet-50, 50 epochs; also refining its boxes, and on one scale.

    python jobs/deformable_detr_r50.py
    python jobs/deformable_detr_r50.py --variant refine
    python jobs/deformable_detr_r50.py --demo --sweep --sweep.trials 3

The release of its code has 44.5 AP, and 46.2 when it refines boxes. What proposes boxes in a first stage is
`jobs/deformable_detr_r50_two_stage.py`.

Paper: https://arxiv.org/abs/2010.04159
"""

from qdet import (
    FOCAL_DETR_LOSS,
    AugmentConfig,
    DataConfig,
    DeformableDETRConfig,
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
    name="deformable_detr_r50",
    detector=DeformableDETRConfig(
        backbone=ResNetConfig(depth=50),
        queries=300,
    ),
    loss=FOCAL_DETR_LOSS,
    data=DataConfig(augment=AugmentConfig(crop=True, pad_multiple=1)),
    optim=OptimConfig(
        lr=2e-4,
        lr_multipliers=((r"^backbone\.", 0.1), (r"reference_points|sampling_offsets", 0.1)),
        drop_epochs=(40,),
        warmup_steps=0,
        clip_norm=0.1,
    ),
    train=TrainConfig(
        epochs=50,
        batch_size=32,  # 4 images on each of 8 GPUs
        workers=8,
        zero=1,
    ),
)

published = Published(
    ap=43.8,
    columns=(62.6, 47.7, 26.4, 47.1, 58.0),
    params=40,
    macs=173,
    fps=19,
    gpu_hours=325,
    classes=91,
)

variants = {
    "single_scale": Variant(
        name="deformable_detr_r50_single_scale",
        says="C5 alone",
        changes={"detector.levels": 1},
        published=Published(
            ap=39.4,
            columns=(None, None, 20.6, 43.0, 55.5),
            source="the authors' code",
            params=34,
            macs=78,
            classes=91,
        ),
    ),
    "single_scale_dc5": Variant(
        name="deformable_detr_r50_single_scale_dc5",
        says="dilated C5 alone",
        changes={"detector.levels": 1, "detector.backbone.dilate_c5": True},
        published=Published(
            ap=41.5,
            columns=(None, None, 24.1, 45.3, 56.0),
            source="the authors' code",
            params=34,
            macs=128,
            classes=91,
        ),
    ),
    "refine": Variant(
        name="deformable_detr_r50_refine",
        says="refined boxes",
        changes={"detector.refine": True},
        published=Published(
            ap=45.4,
            columns=(64.7, 49.0, 26.8, 48.3, 61.7),
            params=41,
            macs=173,
            fps=19,
            gpu_hours=325,
            classes=91,
        ),
    ),
}

sweep = Sweep(
    metric="val/AP",
    trials=12,
    space={
        "optim.lr": LogUniform(1e-4, 4e-4),
        "detector.queries": Choice((100, 300)),
        "detector.decoder_points": Choice((2, 4, 8)),
    },
)

if __name__ == "__main__":
    launch(job, sweep=sweep, published=published, variants=variants)
