"""Parameter groups: every trainable parameter once, with the rates and decays that the job's patterns say."""

import pytest
from torch import nn

from qdet.errors import ConfigError
from qdet.job import OptimConfig
from qdet.training.optim import build_optimizer, parameter_groups


def model():
    module = nn.ModuleDict(
        {"backbone": nn.Sequential(nn.Conv2d(3, 4, 1), nn.GroupNorm(1, 4)), "head": nn.Linear(4, 2)}
    )
    module["backbone"][0].weight.requires_grad_(False)
    return module


def test_groups_partition_the_trainable_parameters():
    optim = OptimConfig(
        lr=1e-3, weight_decay=0.1, lr_multipliers=((r"^backbone\.", 0.1),), no_decay=("bias$",)
    )
    groups = parameter_groups(model().named_parameters(), optim)
    found = {name: (g["lr"], g["weight_decay"]) for g in groups for name in g["names"]}
    assert found == {
        "backbone.0.bias": (pytest.approx(1e-4), 0),
        "backbone.1.weight": (pytest.approx(1e-4), 0.1),
        "backbone.1.bias": (pytest.approx(1e-4), 0),
        "head.weight": (1e-3, 0.1),
        "head.bias": (1e-3, 0),
    }
    assert sum(len(g["params"]) for g in groups) == 5


def test_the_first_multiplier_that_matches_wins():
    optim = OptimConfig(lr=1.0, lr_multipliers=((r"backbone\.0", 0.5), ("backbone", 0.1)))
    rates = {n: g["lr"] for g in parameter_groups(model().named_parameters(), optim) for n in g["names"]}
    assert rates["backbone.0.bias"] == 0.5
    assert rates["backbone.1.bias"] == pytest.approx(0.1)


@pytest.mark.parametrize("setting", [{"no_decay": ("nrom",)}, {"lr_multipliers": (("backbne", 0.1),)}])
def test_a_pattern_that_finds_nothing_is_refused(setting):
    with pytest.raises(ConfigError, match=r"no trainable parameter matches '(nrom|backbne)'"):
        build_optimizer(model(), OptimConfig(**setting))
