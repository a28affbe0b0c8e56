#!/usr/bin/env python
"""AdaMixer with ResNet-50: 100 queries, 12 epochs.

    python jobs/adamixer_r50.py
    python jobs/adamixer_r50.py --data.train data/mine/train --data.val data/mine/val

The tables of the paper's ablations are trained row by row, each row to its end:

    python jobs/adamixer_r50.py --table mixing
    python jobs/adamixer_r50.py --demo --table mixing

Every switch of them is a flag, here with other points, groups and positions:

    python jobs/adamixer_r50.py --detector.points-in 64 --detector.points-out 64
    python jobs/adamixer_r50.py --detector.groups 8 --detector.position iof

Paper: https://arxiv.org/abs/2203.16507
"""

from qdet import (
    AdaMixerConfig,
    AugmentConfig,
    DataConfig,
    Job,
    OptimConfig,
    Published,
    ResNetConfig,
    Sweep,
    Table,
    TrainConfig,
    launch,
)
from qdet.search import Choice, LogUniform

job = Job(
    name="adamixer_r50",
    detector=AdaMixerConfig(
        backbone=ResNetConfig(depth=50, norm="eval"),
        queries=100,
    ),
    data=DataConfig(augment=AugmentConfig(pipeline="mmdet", sizes=(800,))),
    optim=OptimConfig(
        lr=2.5e-5,
        drop_epochs=(8, 11),
    ),
    train=TrainConfig(
        epochs=12,
        batch_size=16,  # 2 images on each of 8 GPUs
        zero=1,
    ),
)

published = Published(ap=42.7, params=139, macs=104, constants=400)

tables = {  # with the paper's AP of every row
    "adaptive": Table("detector.adaptive", {"none": 35.7, "location": 37.3, "content": 40.4, "both": 42.7}),
    "mixing": Table("detector.mixing", {"acm-acm": 41.5, "asm-asm": 39.8, "acm-asm": 42.7, "asm-acm": 41.5}),
    "sampling": Table(
        "detector.sampling", {"c3": 26.2, "c4": 38.3, "c5": 37.8, "roi-align": 37.2, "2d": 41.3, "3d": 42.7}
    ),
    "pyramid": Table("detector.pyramid", {"fpn": 42.1, "pafpn": 41.7, "none": 42.7}),
    "points_in": Table("detector.points_in", {8: 41.2, 16: 41.8, 32: 42.7, 64: 42.7}),
    "points_out": Table("detector.points_out", {32: 41.1, 64: 42.1, 128: 42.7, 256: 42.4}),
    "groups": Table(  # of its APs, only that of four groups is known here
        "detector.groups",
        {
            1: Published(params=191, macs=111),
            2: Published(params=148, macs=106),
            4: Published(params=135, macs=104, ap=42.7),
            8: Published(params=149, macs=106),
        },
    ),
    # What attention between queries knows of their boxes. The paper finds that overlaps (IoF) matter.
    "position": Table("detector.position", {"none": None, "sine": None, "iof": None, "both": 42.7}),
}

sweep = Sweep(
    metric="val/AP",
    trials=12,
    space={
        "optim.lr": LogUniform(1e-5, 1e-4),
        "detector.queries": Choice((100, 300)),
    },
)

if __name__ == "__main__":
    launch(job, sweep=sweep, published=published, tables=tables)
