"""A step copies to the host once: the matching costs. What else it reads, it reads one step later."""

from dataclasses import replace

import pytest
import torch

from qdet.config import override
from qdet.detectors import AdaMixerConfig, DeformableDETRConfig, DETRConfig
from qdet.detectors.adamixer import sampling
from qdet.layers.attention import deformable
from qdet.losses import DETR_LOSS, FOCAL_DETR_LOSS, SetLossConfig
from qdet.training import loop, step
from qdet.training.reporting import LocalReporter, Run
from tests.support.ranks import Recorder, tiny_job
from tests.support.syncs import spy_on_syncs

COSTS = "losses/matching.py:_copy_to_host"
DETECTORS = {
    "AdaMixer": (AdaMixerConfig, SetLossConfig()),
    "DETR": (DETRConfig, DETR_LOSS),
    "Deformable DETR": (DeformableDETRConfig, FOCAL_DETR_LOSS),
}


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Take the ways of reading maps that a GPU takes."""
    for module in (sampling, deformable):
        monkeypatch.setattr(module, "rows_are_faster", lambda _: False)


def syncs_of_a_step(job, place, monkeypatch):
    """Train; return what the third step read, where nothing is logged or saved."""
    real, seen = step.StepMaker.make, {}

    def make(maker, number, batches):
        with spy_on_syncs() as found:
            made = real(maker, number, batches)
        seen[number] = found
        return made

    monkeypatch.setattr(step.StepMaker, "make", make)
    loop.train(job, run=Run("run", str(place)), reporter=LocalReporter(), tracker=Recorder())
    return seen[2]


@pytest.mark.parametrize("name", DETECTORS)
def test_a_step_reads_its_costs_and_the_step_before(name, demo_shards, tmp_path, monkeypatch, as_on_a_gpu):
    job = tiny_job(demo_shards, **{"train.steps": 4, "train.log_every": 100, "optim.ema_decay": 0.9})
    config, loss = DETECTORS[name]
    small = replace(config().demo(), backbone=job.detector.backbone)
    job = override(job, {"detector": small, "loss": loss, "train.zero": 0})
    found = syncs_of_a_step(job, tmp_path, monkeypatch)
    assert set(found) == {COSTS, "training/step.py:settle"}
    assert found.count(COSTS) == 2  # the copy, and its memory as numpy has it
    assert found.count("training/step.py:settle") == 1


def test_the_spy_sees_what_waits():
    x = torch.ones(3)
    with spy_on_syncs() as found:
        _ = x.sum().item(), bool(x.any()), x[x > 0], x.nonzero(), x.tolist(), float(x[0])
    assert len(found) >= 6
    with spy_on_syncs() as found:
        _ = (x * 2).sum() + x.to(torch.float64).mean()
    assert not found
