#!/usr/bin/env python
"""A job that trains in seconds, on 64-pixel images; tests copy it into their project folder."""

from qdet.backbones import SwinConfig
from qdet.data.augment import AugmentConfig
from qdet.detectors import AdaMixerConfig
from qdet.job import DataConfig, EvalConfig, Job, OptimConfig, Sweep, TrainConfig
from qdet.launching.cli import launch
from qdet.search import Choice

job = Job(
    name="tiny",
    detector=AdaMixerConfig(
        backbone=SwinConfig(size="demo", weights=None, drop_path=0.0),
        queries=10,
        stages=1,
        width=32,
        feature_width=32,
        heads=2,
        groups=2,
        points_in=4,
        points_out=4,
        ffn=32,
    ),
    data=DataConfig(
        train="data/train", val="data/val", augment=AugmentConfig(sizes=(64,), max_size=64), readers=1
    ),
    optim=OptimConfig(lr=1e-3, drop_epochs=(), warmup_steps=2),
    train=TrainConfig(
        steps=4,
        batch_size=8,
        workers=2,
        zero=2,
        precision="fp32",
        accelerator="cpu",
        eval_every=0,
        log_every=2,
        checkpoint_every=2,
        max_failures=1,
        timeout=30,
    ),
    eval=EvalConfig(batch_size=4, pictures=2, sanity=False),
)

# The last value makes training fail: the sweep must survive that.
sweep = Sweep(space={"optim.lr": Choice((1e-3, 1e-4, float("inf")))}, trials=3)


if __name__ == "__main__":
    launch(job, sweep=sweep)
