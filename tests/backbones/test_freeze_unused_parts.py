"""Freezing what a level does not depend on: against the gradients of that level alone."""

import pytest
import torch

from qdet.backbones import ResNetConfig, ResNeXtDCNConfig, SwinConfig
from qdet.backbones.unread import freeze_unread


def small(config):
    return config(depth=14, width=16, norm="eval", weights=None)


@pytest.mark.parametrize("level", [1, 2, 3])
@pytest.mark.parametrize(
    "config",
    [small(ResNetConfig), small(ResNeXtDCNConfig), SwinConfig().demo()],
    ids=lambda c: type(c).__name__,
)
def test_trains_just_what_the_level_depends_on(config, level):
    backbone = config.build()
    trainable = {name for name, p in backbone.named_parameters() if p.requires_grad}
    backbone(torch.randn(2, 3, 96, 64))[level].square().sum().backward()
    reached = {name for name, p in backbone.named_parameters() if p.grad is not None}
    fresh = config.build()
    freeze_unread(fresh, slice(level, level + 1))
    assert {name for name, p in fresh.named_parameters() if p.requires_grad} == reached
    assert (reached < trainable) == (level < 3 or isinstance(config, SwinConfig))  # its finer levels' norms


def test_reading_all_levels_freezes_nothing():
    backbone = small(ResNetConfig).build()
    before = [p.requires_grad for p in backbone.parameters()]
    freeze_unread(backbone, slice(None))
    assert [p.requires_grad for p in backbone.parameters()] == before
    assert all(p.grad is None for p in backbone.parameters())
