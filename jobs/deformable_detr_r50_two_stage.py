#!/usr/bin/env python
"""Two-stage Deformable DETR with ResNet-50, 50 epochs; also with larger backbones.

    python jobs/deformable_detr_r50_two_stage.py
    python jobs/deformable_detr_r50_two_stage.py --variant x101_dcn
    python jobs/deformable_detr_r50_two_stage.py --demo --sweep --sweep.trials 3

The release of its code has 46.9 AP.

Paper: https://arxiv.org/abs/2010.04159
"""

from qdet import (
    FOCAL_DETR_LOSS,
    AugmentConfig,
    DataConfig,
    DeformableDETRConfig,
    Job,
    OneToManyConfig,
    OptimConfig,
    Published,
    ResNetConfig,
    ResNeXtDCNConfig,
    Sweep,
    TrainConfig,
    Variant,
    launch,
)
from qdet.search import Choice, LogUniform

job = Job(
    name="deformable_detr_r50_two_stage",
    detector=DeformableDETRConfig(
        backbone=ResNetConfig(depth=50),
        refine=True,
        two_stage=True,
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
    ap=46.2,
    columns=(65.2, 50.0, 28.8, 49.2, 61.7),
    test_dev=46.9,
    params=41,
    macs=173,
    fps=19,
    gpu_hours=340,
    classes=91,
)

HYBRID = {
    "detector.one_to_many": OneToManyConfig(kind="hybrid", queries=1500, repeats=6),
    "detector.content": "learned",
    "detector.look_forward": "twice",
    "detector.dropout": 0.0,
    "detector.ffn": 2048,
    "train.batch_size": 16,  # 2 images on each of 8 GPUs
}
README = "H-DETR's README"

variants = {
    "hybrid_12ep": Variant(
        name="h_deformable_detr_r50_12ep",
        says="H-DETR",
        changes=HYBRID | {"train.epochs": 12, "optim.drop_epochs": (11,)},
        published=Published(ap=48.7, source=README, classes=91),
    ),
    "hybrid_36ep": Variant(
        name="h_deformable_detr_r50_36ep",
        says="H-DETR",
        changes=HYBRID | {"train.epochs": 36, "optim.drop_epochs": (30,)},
        published=Published(ap=50.0, source=README, classes=91),
    ),
    "r101": Variant(
        name="deformable_detr_r101_two_stage",
        changes={"detector.backbone.depth": 101},
        published=Published(
            ap=48.7, columns=(68.1, 52.9, 29.1, 51.5, 62.0), source="the paper, test-dev", classes=91
        ),
    ),
    # The paper does not say which ResNeXt-101. 32x8d is the one that torchvision had then, from which the
    # authors' code takes its backbones; with deformable convolutions, 32x4d is the one that AdaMixer takes.
    "x101": Variant(
        name="deformable_detr_x101_two_stage",
        changes={"detector.backbone": ResNetConfig(depth=101, groups=32, width_per_group=8)},
        published=Published(
            ap=49.0, columns=(68.5, 53.2, 29.7, 51.7, 62.8), source="the paper, test-dev", classes=91
        ),
    ),
    "x101_dcn": Variant(
        name="deformable_detr_x101_dcn_two_stage",
        changes={"detector.backbone": ResNeXtDCNConfig(norm="frozen")},
        published=Published(
            ap=50.1, columns=(69.7, 54.6, 30.6, 52.8, 64.7), source="the paper, test-dev", classes=91
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
