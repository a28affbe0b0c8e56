"""What every backbone promises; a new one is tested by being in the union."""

import dataclasses
import importlib.util
import math
import typing

import pytest
import torch

from qdet.backbones import (
    BackboneConfig,
    HuggingFaceConfig,
    ResNetConfig,
    ResNeXtDCNConfig,
    load_pretrained,
)
from qdet.detectors.complexity import count_parameters

INSTALLED = [
    config
    for config in typing.get_args(BackboneConfig)
    if config is not HuggingFaceConfig or importlib.util.find_spec("transformers")
]
DEMOS = [config().demo() for config in INSTALLED]
_SMALL = {"depth": 14, "width": 16, "weights": None}
VARIANTS = [
    *DEMOS,
    ResNetConfig(**_SMALL, norm="frozen"),
    ResNetConfig(**_SMALL, norm="eval", dilate_c5=True),
    ResNetConfig(**_SMALL, norm="eval", groups=4),
    ResNeXtDCNConfig(**_SMALL, norm="eval"),
]
each = pytest.mark.parametrize("config", VARIANTS, ids=lambda c: f"{type(c).__name__}-{VARIANTS.index(c)}")


def images(height: int = 70, width: int = 90, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, height, width)


@each
@pytest.mark.parametrize("side", [(64, 96), (70, 90), (33, 131), (8, 8)], ids=str)
def test_maps_have_the_announced_channels_and_strides(config, side):
    module = config.build().eval()
    maps = module(images(*side))
    assert len(maps) == len(module.channels) == len(module.strides) == 4
    for level, channels, stride in zip(maps, module.channels, module.strides, strict=True):
        assert level.shape == (2, channels, *(math.ceil(s / stride) for s in side))


@each
def test_gradient_reaches_every_parameter_that_is_not_frozen_and_no_other(config):
    module = config.build()
    sum(level.square().mean() for level in module(images())).backward()
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            assert parameter.grad is None, name
        elif name.endswith("attn.qkv.bias"):  # the keys' part cannot matter: softmax takes no common shift
            assert parameter.grad is not None
        else:
            assert parameter.grad is not None, f"no gradient reaches {name}"
            assert parameter.grad.abs().sum() > 0, f"no gradient reaches {name}"


@pytest.mark.parametrize("config", [ResNetConfig, ResNeXtDCNConfig], ids=lambda c: c.__name__)
@pytest.mark.parametrize("norm", ["frozen", "eval", "group"])
def test_freezing_holds_the_stem_and_the_first_stage(config, norm):
    module = config(**_SMALL, norm=norm).build()
    frozen = {name.split(".")[0] for name, p in module.named_parameters() if not p.requires_grad}
    trained = {name.split(".")[0] for name, p in module.named_parameters() if p.requires_grad}
    assert trained == {"layer2", "layer3", "layer4"}
    assert frozen == {"conv1", "layer1"} | ({"bn1"} if norm != "frozen" else set())
    free = config(**_SMALL, norm=norm, freeze=False).build()
    assert count_parameters(free) == count_parameters(free, trainable=True)


@each
def test_training_mode_moves_no_statistics(config):
    module = config.build().train()
    before = {name: t.clone() for name, t in module.named_buffers()}
    module(images())
    for name, t in module.named_buffers():
        assert torch.equal(t, before[name]), name


@each
def test_evaluation_is_deterministic_and_images_do_not_see_each_other(config):
    module = config.build().double().eval()
    batch = images(64, 64, batch=3).double()
    together, alone = module(batch), module(batch[1:2])
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a[1:2], b, atol=1e-10, rtol=0)


@each
def test_state_dict_round_trips(config):
    module, other = config.build().eval(), config.build().eval()
    other.load_state_dict(module.state_dict(), strict=True)
    for a, b in zip(module(batch := images()), other(batch), strict=True):
        assert torch.equal(a, b)


@each
def test_bfloat16_autocast_is_finite_and_near_float32(config):
    module = config.build().eval()
    batch = images()
    wide = module(batch)
    with torch.autocast("cpu", torch.bfloat16):
        narrow = module(batch)
    for a, b in zip(narrow, wide, strict=True):
        assert a.isfinite().all()
        assert (a.float() - b).norm() < 0.05 * b.norm()
    sum(a.float().square().mean() for a in narrow).backward()
    assert all(p.grad.isfinite().all() for p in module.parameters() if p.grad is not None)


@each
def test_shapes_are_known_on_the_meta_device(config):
    with torch.device("meta"):
        module = config.build()
        maps = module(images(800, 1333))
    assert [m.shape[1] for m in maps] == list(module.channels)


@each
def test_inference_leaves_nothing_behind_that_breaks_training(config):
    module = config.build()
    with torch.inference_mode():
        module(images(56, 72))
    sum(level.square().mean() for level in module(images(56, 72))).backward()


@pytest.mark.parametrize("config", DEMOS, ids=lambda c: type(c).__name__)
def test_a_demo_is_of_laptop_size_and_keeps_its_class(config):
    assert config.demo().build().channels == config.build().channels
    assert count_parameters(config.build()) < 3_000_000


@each
def test_weights_none_keeps_the_initialization(config):
    module = config.build()
    before = {name: t.clone() for name, t in module.state_dict().items()}
    for nothing in (None, "none", "None"):
        load_pretrained(module, dataclasses.replace(config, weights=nothing))
    assert all(torch.equal(t, before[name]) for name, t in module.state_dict().items())
