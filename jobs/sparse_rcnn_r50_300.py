#!/usr/bin/env python
"""Sparse R-CNN with ResNet-50: 300 proposals, 36 epochs, random crops; also with ResNet-101.

    python jobs/sparse_rcnn_r50_300.py
    python jobs/sparse_rcnn_r50_300.py --variant r101
    python jobs/sparse_rcnn_r50_300.py --demo --sweep --sweep.trials 3

Paper: https://arxiv.org/abs/2011.12450
"""

from qdet import (
    SPARSE_RCNN_LOSS,
    AugmentConfig,
    DataConfig,
    Job,
    OptimConfig,
    Published,
    ResNetConfig,
    SparseRCNNConfig,
    Sweep,
    TrainConfig,
    Variant,
    launch,
)
from qdet.search import Choice, LogUniform

job = Job(
    name="sparse_rcnn_r50_300",
    detector=SparseRCNNConfig(
        backbone=ResNetConfig(depth=50),
        queries=300,
    ),
    loss=SPARSE_RCNN_LOSS,
    data=DataConfig(augment=AugmentConfig(pipeline="detectron2", crop=True)),
    optim=OptimConfig(
        lr=2.5e-5,
        drop_epochs=(28, 33),  # after 210,000 and 250,000 of 270,000 steps
        warmup_steps=1000,
        warmup_ratio=0.01,
        clip_norm=1.0,
    ),
    train=TrainConfig(
        epochs=36,
        batch_size=16,  # 2 images on each of 8 GPUs
        workers=8,
        zero=1,
    ),
)

published = Published(ap=45.0, columns=(63.4, 48.2, 26.9, 47.2, 59.5), params=110, macs=174)

variants = {
    "r101": Variant(
        name="sparse_rcnn_r101_300",
        changes={"detector.backbone.depth": 101},
        published=Published(ap=46.4, columns=(64.6, 49.5, 28.3, 48.3, 61.6), macs=250),
    ),
}

sweep = Sweep(
    metric="val/AP",
    trials=12,
    space={
        "optim.lr": LogUniform(1e-5, 1e-4),
        "optim.clip_norm": Choice((0.1, 1.0)),
        "detector.filters": Choice((32, 64, 128)),
    },
)

if __name__ == "__main__":
    launch(job, sweep=sweep, published=published, variants=variants)
