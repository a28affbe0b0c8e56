#!/usr/bin/env python
"""Sparse R-CNN with ResNet-50: 100 proposals, 36 epochs; also with ResNet-101.

    python jobs/sparse_rcnn_r50_100.py
    python jobs/sparse_rcnn_r50_100.py --variant r101
    python jobs/sparse_rcnn_r50_100.py --demo --sweep --sweep.trials 3

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
    name="sparse_rcnn_r50_100",
    detector=SparseRCNNConfig(
        backbone=ResNetConfig(depth=50),
        queries=100,
    ),
    loss=SPARSE_RCNN_LOSS,
    data=DataConfig(augment=AugmentConfig(pipeline="detectron2", crop=False)),
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

published = Published(ap=42.8)

variants = {
    "r101": Variant(
        name="sparse_rcnn_r101_100",
        changes={"detector.backbone.depth": 101},
        published=Published(ap=44.1),
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
