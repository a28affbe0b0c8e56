#!/usr/bin/env python
"""AdaMixer's ablation of what attention between queries knows of their boxes: here their overlap alone.

    python jobs/adamixer_r50_ablation_position.py
    python jobs/adamixer_r50_ablation_position.py --sweep
    python jobs/adamixer_r50_ablation_position.py --demo --sweep

    position    none, sine embedding, overlap (IoF), both

The first command trains the model that knows overlaps (IoF), the second every row. The paper finds that these
matter; of its APs only that of both is known here, 42.7.
Paper: https://arxiv.org/abs/2203.16507
"""

from qdet.backbones import ResNetConfig
from qdet.data.augment import AugmentConfig
from qdet.detectors import AdaMixerConfig
from qdet.job import DataConfig, Job, OptimConfig, Sweep, TrainConfig
from qdet.launching.cli import launch
from qdet.search import Each

job = Job(
    name="adamixer_r50_ablation_position",
    detector=AdaMixerConfig(
        backbone=ResNetConfig(depth=50, norm="eval"),
        queries=100,
        position="iof",
    ),
    data=DataConfig(augment=AugmentConfig(sizes=(800,))),
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

sweep = Sweep(
    trials=1,
    grace_epochs=12,  # none is stopped early: the table is of whole trainings
    space={
        "detector.position": Each(("none", "sine", "iof", "both")),
    },
)

if __name__ == "__main__":
    launch(job, sweep=sweep)
