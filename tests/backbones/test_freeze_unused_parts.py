"""Freezing what a level does not depend on: against the gradients of that level alone."""

from dataclasses import replace

import pytest
import torch

from qdet.backbones import HuggingFaceConfig, ResNetConfig, ResNeXtDCNConfig, SwinConfig
from qdet.backbones.unread import freeze_unread
from tests.support.detector_variants import CLASSES, ONE_EACH, SIZES, VARIANTS, images, shaken
from tests.support.recordings import Features


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


def test_a_backbone_without_parameters_is_left_as_it_is():
    backbone = Features((8,), (32,))
    assert freeze_unread(backbone, slice(None)) is backbone


BACKBONES = {
    "swin": SwinConfig().demo(),
    "convnext": HuggingFaceConfig().demo(),
    "swin that drops paths": replace(SwinConfig().demo(), drop_path=0.3),
}


@pytest.mark.parametrize("backbone", ["swin", "convnext"])
@pytest.mark.parametrize("detector", ONE_EACH)
def test_a_detector_trains_nothing_of_a_backbone_that_it_does_not_read(detector, backbone):
    """Norms of single maps get no gradient where the detector reads other maps."""
    config = replace(VARIANTS[detector][0], backbone=BACKBONES[backbone])
    built = shaken(config.build(CLASSES))
    loss = sum(stage.logits.sum() + stage.boxes_xyxy.sum() for stage in built(images(), SIZES))
    loss.backward()
    trained = {name for name, p in built.backbone.named_parameters() if p.requires_grad}
    assert trained == {name for name, p in built.backbone.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("config", [*BACKBONES.values(), ResNetConfig(depth=14, norm="group", weights=None)])
def test_looking_for_what_is_read_changes_nothing_else(config):
    torch.manual_seed(5)
    backbone = config.build()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    drawn = torch.get_rng_state()
    assert freeze_unread(backbone, slice(-1, None)) is backbone
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    assert all(part.training for part in backbone.modules())


@pytest.mark.parametrize("config", BACKBONES.values())
def test_shapes_without_numbers_tell_what_is_read(config):
    with torch.device("meta"):
        shapes = freeze_unread(config.build(), slice(-1, None))
    whole = freeze_unread(config.build(), slice(-1, None))
    assert [p.requires_grad for p in shapes.parameters()] == [p.requires_grad for p in whole.parameters()]
