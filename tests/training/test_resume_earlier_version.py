"""A checkpoint of an earlier version resumes, and training takes the steps that it would have taken."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from qdet.backbones import SwinConfig
from qdet.backbones.swin import model as swin
from qdet.detectors import SparseRCNNConfig
from tests.support.ranks import losses, tiny_job, train_all

WRITTEN = Path(__file__).parent / "checkpoint_0_1"
LATER_LOSSES = [17.170446395874023, 18.201030731201172, 18.076801300048828]
"""Of steps 4 to 6 of the run that wrote the checkpoint, as its own version computed them."""


@pytest.fixture
def job(monkeypatch):
    monkeypatch.setitem(swin.SIZES, "demo", (4, (1, 1, 1, 1), (1, 1, 2, 2), 4))  # 42,578 parameters in all
    detector = replace(
        SparseRCNNConfig(dropout=0.2).demo(), queries=6, stages=2, width=16, filters=4, ffn=16, heads=2,
        roi_size=2, backbone=replace(SwinConfig().demo(), drop_path=0.3, weights=None),
    )  # fmt: skip
    return tiny_job(
        WRITTEN,
        **{
            "detector": detector,
            "data.augment.crop": True,
            "data.augment.crop_sizes": (40, 56),
            "data.augment.crop_range": (32, 56),
            "data.augment.photometric": True,
            "optim.ema_decay": 0.9,
            "train.batch_size": 6,
            "train.zero": 1,
            "train.steps": 6,
            "train.checkpoint_every": 3,
        },
    )


def test_a_checkpoint_of_version_0_1_resumes(job, tmp_path):
    shutil.copytree(WRITTEN / "run" / "step_000003", tmp_path / "run" / "step_000003")
    points = train_all(1, {"run": job}, tmp_path)["run"]
    assert sorted(points) == [4, 5, 6]
    assert losses(points) == pytest.approx(LATER_LOSSES, rel=1e-5)  # other machines round otherwise
