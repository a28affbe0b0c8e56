"""Frozen parts: bit for bit as they were, whatever would change them."""

import pytest
import torch
from torch import nn

from qdet.checkpoint import Checkpoint
from qdet.detectors.detector import Detector
from qdet.errors import ConfigError
from qdet.training.freeze import find_frozen, freeze
from tests.support.ranks import checkpoint, tiny_job, train_all

MOVING = {
    "train.steps": 3,
    "train.freeze": ("backbone", r"stages\.0\.ffn"),
    "optim.lr": 1e-2,
    "optim.weight_decay": 0.5,
    "optim.ema_decay": 0.5,
}


def is_frozen(name: str) -> bool:
    return name.startswith(("backbone.", "decoder.stages.0.ffn"))


@pytest.fixture(scope="module")
def ends(demo_shards, tmp_path_factory) -> dict[str, Checkpoint]:
    store = tmp_path_factory.mktemp("store")
    jobs = {
        f"zero{z}": tiny_job(demo_shards, **MOVING, **{"train.zero": z, "train.workers": 2}) for z in (1, 3)
    }
    train_all(2, jobs, store)
    return {name: checkpoint(store, name, 3) for name in jobs}


@pytest.fixture(scope="module")
def initial(demo_shards):
    job = tiny_job(demo_shards)
    torch.manual_seed(job.train.seed)
    return job.detector.build(6).state_dict()


@pytest.mark.slow
@pytest.mark.parametrize("zero", ["zero1", "zero3"])
def test_frozen_parameters_keep_every_bit_and_have_no_moments_and_no_average(ends, initial, zero):
    weights = ends[zero].all("weights")
    assert weights.keys() == initial.keys()
    for name, tensor in weights.items():
        if is_frozen(name):
            assert torch.equal(tensor, initial[name]), name
    trained = set(ends[zero].names("exp_avg"))
    assert trained
    assert trained == set(ends[zero].names("average"))
    assert not any(map(is_frozen, trained))
    moved = [name for name in trained if not torch.equal(weights[name], initial[name])]
    assert len(moved) > 0.9 * len(trained)


class Small(Detector):
    """A detector whose backbone has all that changes without a gradient."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.5))  # type: ignore
        self.head = nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))

    def decode(self, features, sizes):
        raise NotImplementedError


def test_no_gradient_reaches_them_and_buffers_and_dropout_stand_still():
    detector = Small()
    freeze(detector, ["backbone"])
    detector.train()
    before = {name: t.clone() for name, t in detector.state_dict().items()}
    images = torch.randn(2, 3, 5, 5)
    features = detector.backbone(images)
    assert not features.requires_grad
    assert torch.equal(features, detector.backbone(images))
    detector.head(features).sum().backward()
    assert all(p.grad is None for p in detector.backbone.parameters())
    assert all(p.grad is not None for p in detector.head.parameters())
    after = detector.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"head.0.running_mean", "head.0.running_var", "head.0.num_batches_tracked"}
    assert not detector.eval().head.training
    assert detector.train().head.training


def test_a_name_that_matches_nothing_is_answered_with_what_there_is():
    said = r"--train.freeze neck names no parameter.*backbone \(24\), head \(18\)"
    with pytest.raises(ConfigError, match=said):
        freeze(Small(), ["backbone", "neck"])
    with pytest.raises(ConfigError, match="leaves nothing to train"):
        freeze(Small(), ["backbone", "head"])
    with pytest.raises(ConfigError, match="is no regular expression"):
        freeze(Small(), ["back(bone"])


def test_a_childs_name_means_all_of_it_and_nothing_else():
    class Odd(Small):
        def __init__(self):
            super().__init__()
            self.head_of_backbone = nn.Linear(1, 1)

    inside = {f"backbone.{layer}.{kind}" for layer in (0, 1) for kind in ("weight", "bias")}
    assert find_frozen(Odd(), ["backbone"]) == inside
    assert "head_of_backbone.weight" in find_frozen(Odd(), ["backbone$|head_of"])
