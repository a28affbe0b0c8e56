"""The job that chaos breaks: seconds long, with everything that could make a resumed run differ.

Random augmentation, dropout and stochastic depth are on, weights are averaged, evaluations, checkpoints and
gradients that are computed twice are frequent, and an epoch has few steps. torchrun starts it; by hand:
`python -m qdet.launching.chaos.job --local`.
"""

import dataclasses

from qdet.backbones import SwinConfig
from qdet.data.augment import AugmentConfig
from qdet.data.config import DataConfig
from qdet.detectors import SparseRCNNConfig
from qdet.job import EvalConfig, Job, OptimConfig, TrackConfig, TrainConfig

IMAGES = {"train": 48, "val": 16}
"""Rendered images per split."""
SIDE = 64
"""Width and height of an image in pixels."""
STEPS = 60

job = Job(
    name="chaos",
    detector=dataclasses.replace(
        SparseRCNNConfig(dropout=0.1).demo(),
        backbone=SwinConfig(size="demo", weights=None, drop_path=0.1),
        queries=10,
        stages=2,
        width=32,
        filters=8,
        ffn=32,
        heads=2,
        roi_size=3,
    ),
    data=DataConfig(
        train="data/train",
        val="data/val",
        augment=AugmentConfig(
            sizes=(48, 56, 64), max_size=64, crop=True, crop_sizes=(48, 64), crop_range=(32, 64)
        ),
        readers=1,
    ),
    optim=OptimConfig(lr=1e-3, drop_epochs=(), warmup_steps=5, ema_decay=0.99),
    train=TrainConfig(
        steps=STEPS,
        batch_size=8,
        workers=2,
        zero=2,
        precision="fp32",
        accelerator="cpu",
        eval_every=2,
        log_every=1,
        checkpoint_every=7,
        verify_every=2,
        timeout=30,
    ),
    eval=EvalConfig(batch_size=4, pictures=0),
    track=TrackConfig(experiment="chaos", system_metrics=False),
)


if __name__ == "__main__":
    from qdet.launching.chaos import flips, lies
    from qdet.launching.chaos.copies import read_own_copy
    from qdet.launching.cli import launch

    flips.install()
    lies.install()
    launch(read_own_copy(job))
