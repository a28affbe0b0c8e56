#!/usr/bin/env python
"""DINO with Swin-L, pre-trained on ImageNet-22k, on four scales, 12 epochs; also 36 epochs, and five scales.

    python jobs/dino_swin_l.py --train.epochs 24 --optim.drop-epochs 20
    python jobs/dino_swin_l.py --variant 5scale_36ep
    python jobs/dino_swin_l.py --demo

Paper: https://arxiv.org/abs/2203.03605

Evaluates one image at a time, as the authors do: where queries start depends on padding, which costs AP.
"""

from qdet import (
    DINO_DENOISING,
    DINO_LOSS,
    AugmentConfig,
    DataConfig,
    DINOConfig,
    EvalConfig,
    Job,
    OptimConfig,
    Published,
    Sweep,
    SwinConfig,
    TrainConfig,
    Variant,
    launch,
)
from qdet.search import LogUniform, Uniform

job = Job(
    name="dino_swin_l",
    detector=DINOConfig(
        backbone=SwinConfig(size="l", outputs=3),
        queries=900,
        denoising=DINO_DENOISING,
    ),
    loss=DINO_LOSS,
    data=DataConfig(augment=AugmentConfig(crop=True, pad_multiple=1)),
    optim=OptimConfig(
        lr=1e-4,
        lr_multipliers=((r"^backbone\.", 0.1),),
        drop_epochs=(11,),
        warmup_steps=0,
        clip_norm=0.1,
    ),
    train=TrainConfig(
        epochs=12,
        batch_size=16,  # 1 image on each of 16 GPUs
        workers=16,
        activation_checkpointing=True,
    ),
    eval=EvalConfig(batch_size=1),
)

README = "the authors' README"
published = Published(ap=56.8, params=218, source=README, classes=91)

FIVE = {"detector.levels": 5, "detector.backbone.outputs": 4}
LONGEST = {"train.epochs": 36, "optim.drop_epochs": (30,)}

variants = {
    "36ep": Variant(
        name="dino_swin_l_36ep",
        changes=LONGEST,
        published=Published(ap=58.0, params=218, source=README, classes=91),
    ),
    "5scale": Variant(
        name="dino_swin_l_5scale",
        says="5 scales",
        changes=FIVE,
        published=Published(ap=57.3, params=218, source=README, classes=91),
    ),
    "5scale_36ep": Variant(
        name="dino_swin_l_5scale_36ep",
        says="5 scales",
        changes=FIVE | LONGEST,
        published=Published(ap=58.5, params=218, source=README, classes=91),
    ),
}

sweep = Sweep(
    metric="val/AP",
    trials=12,
    space={
        "optim.lr": LogUniform(5e-5, 4e-4),
        "detector.backbone.drop_path": Uniform(0.1, 0.4),
    },
)

if __name__ == "__main__":
    launch(job, sweep=sweep, published=published, variants=variants)
