"""A job with every kind of randomness, and what of its state a resumed run must reproduce."""

from dataclasses import replace

from qdet.backbones import SwinConfig
from qdet.detectors import SparseRCNNConfig
from tests.support.ranks import tiny_job


def random_job(shards, *, zero, workers=2):
    """A job of six steps, in the second epoch by then, with augmentation, dropout and drop path."""
    detector = replace(
        SparseRCNNConfig(dropout=0.2).demo(), queries=10, stages=2, width=32, filters=8, ffn=32, heads=2,
        roi_size=3, backbone=replace(SwinConfig().demo(), drop_path=0.3, weights=None),
    )  # fmt: skip
    return tiny_job(
        shards,
        **{
            "detector": detector,
            "data.augment.crop": True,
            "data.augment.crop_sizes": (40, 56),
            "data.augment.crop_range": (32, 56),
            "data.augment.photometric": True,
            "train.batch_size": 12,
            "train.workers": workers,
            "train.zero": zero,
            "train.steps": 6,
            "train.checkpoint_every": 3,
        },
    )


def comparable_state(saved):
    """The state of a run, whatever the code was called that wrote it, and however long it took."""
    return replace(saved.state, git_commit=None, seconds=0.0, seconds_before=0.0, launched=0.0)
