"""A checkpoint of an earlier version resumes, and training takes the steps that it would have taken."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from qdet.backbones.swin import model as swin
from qdet.config import override
from tests.support.random_job import random_job
from tests.support.ranks import losses, train_all

WRITTEN = Path(__file__).parent / "checkpoint_0_1"
LATER_LOSSES = [17.170446395874023, 18.201030731201172, 18.076801300048828]
"""Of steps 4 to 6 of the run that wrote the checkpoint, as its own version computed them."""


@pytest.fixture
def job(monkeypatch):
    monkeypatch.setitem(swin.SIZES, "demo", (4, (1, 1, 1, 1), (1, 1, 2, 2), 4))  # 42,578 parameters in all
    usual = random_job(WRITTEN, zero=1, workers=1)
    detector = replace(usual.detector, queries=6, width=16, filters=4, ffn=16, roi_size=2)
    return override(usual, {"detector": detector, "optim.ema_decay": 0.9, "train.batch_size": 6})


def test_a_checkpoint_of_version_0_1_resumes(job, tmp_path):
    shutil.copytree(WRITTEN / "run" / "step_000003", tmp_path / "run" / "step_000003")
    points = train_all(1, {"run": job}, tmp_path)["run"]
    assert sorted(points) == [4, 5, 6]
    assert losses(points) == pytest.approx(LATER_LOSSES, rel=1e-5)  # other machines round otherwise
