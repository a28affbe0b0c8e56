#!/usr/bin/env python
"""Dynamic DETR with ResNet-50, 12 epochs; also 50 epochs with random crops, and on P3 to P7.

    python jobs/dynamic_detr_r50.py
    python jobs/dynamic_detr_r50.py --variant 50ep
    python jobs/dynamic_detr_r50.py --demo --sweep --sweep.trials 3

Paper: Dai et al., ICCV 2021; its AP as given in https://arxiv.org/abs/2203.03605. There is no code of its
authors: the recipe is that of DETR's family, with one size of images and the drops of 12 epochs, or with its
crops and the drop of 50 epochs.
"""

from qdet import (
    FOCAL_DETR_LOSS,
    AugmentConfig,
    DataConfig,
    DynamicDETRConfig,
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
    name="dynamic_detr_r50",
    detector=DynamicDETRConfig(
        backbone=ResNetConfig(depth=50),
        queries=300,
    ),
    loss=FOCAL_DETR_LOSS,
    data=DataConfig(augment=AugmentConfig(sizes=(800,))),
    optim=OptimConfig(
        lr=1e-4,
        lr_multipliers=((r"^backbone\.", 0.1),),
        drop_epochs=(8, 11),
        warmup_steps=1000,
        clip_norm=0.1,  # a decoder like Sparse R-CNN's, whose boxes are known to diverge at high rates
    ),
    train=TrainConfig(
        epochs=12,
        batch_size=16,  # 2 images on each of 8 GPUs
        workers=8,
        zero=1,
    ),
)

published = Published(ap=42.9, columns=(61.0, 46.3, 24.6, 44.9, 54.4), params=58)

variants = {
    "50ep": Variant(
        name="dynamic_detr_r50_50ep",
        says="random crops",
        changes={
            "data.augment": AugmentConfig(crop=True),
            "optim.drop_epochs": (40,),
            "train.epochs": 50,
        },
        published=Published(ap=47.2, columns=(65.9, 51.1, 28.6, 49.3, 59.1), params=58),
    ),
    "p3_p7": Variant(
        name="dynamic_detr_r50_p3_p7",
        says="on P3 to P7",
        changes={"detector.pyramid": "p3-p7"},
        published=Published(),
    ),
}

sweep = Sweep(
    metric="val/AP",
    trials=12,
    space={
        "optim.lr": LogUniform(2.5e-5, 2e-4),
        "detector.filters": Choice((16, 32, 64)),
        "detector.dynamic_layers": Choice((1, 2)),
    },
)

if __name__ == "__main__":
    launch(job, sweep=sweep, published=published, variants=variants)
