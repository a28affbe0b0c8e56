"""AdaMixer's initialisation and gradient flow, point by point as in the authors' code."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from qdet.backbones import SwinConfig
from qdet.detectors import AdaMixerConfig
from qdet.detectors.adamixer.channel_mapping import ChannelMapping
from qdet.detectors.adamixer.model import Decoder
from qdet.errors import ConfigError

STRIDES = (4, 8, 16, 32)
SMALL = {
    "backbone": SwinConfig(),
    "queries": 9,
    "width": 64,
    "feature_width": 64,
    "points_out": 32,
    "ffn": 128,
}


@pytest.fixture(scope="module")
def published() -> Decoder:
    """One stage at full width."""
    torch.manual_seed(0)
    return Decoder(AdaMixerConfig(backbone=SwinConfig(), stages=1), STRIDES, 80)


def uniform(t: torch.Tensor, limit: float) -> bool:
    """Whether `t` looks like U(-limit, limit)."""
    t = t.detach()
    return t.abs().max() <= limit and math.isclose(t.std(), limit / math.sqrt(3), rel_tol=0.3)


def test_a_stage_has_the_published_parameters(published):
    assert sum(p.numel() for p in published.stages[0].parameters()) == 18_378_716


def test_a_stage_starts_as_the_authors_code_does(published):
    stage = published.stages[0]
    assert_close(stage.class_head.bias, torch.full((80,), -4.59512))
    assert not stage.box_head.weight.any()
    assert not stage.box_head.bias.any()
    assert not stage.mixing.weights.weight.any()
    assert uniform(stage.mixing.weights.bias, 1 / 16)
    assert not stage.sampling.offsets.weight.any()
    assert (stage.sampling.offsets.bias.view(4, 32, 3)[..., 2] == -1).all()
    assert uniform(stage.sampling.offsets.bias.view(4, 32, 3)[..., :2], 0.5)
    assert uniform(stage.attention.out.bias, 1 / 16)
    assert uniform(stage.ffn.contract.bias, 1 / math.sqrt(2048))
    assert uniform(stage.ffn.contract.weight, math.sqrt(6 / (2048 + 256)))
    assert uniform(stage.mixing.out.bias, 1 / math.sqrt(32768))
    assert uniform(stage.mixing.out.weight, math.sqrt(6 / (32768 + 256)))
    assert uniform(stage.class_tower[0].weight, math.sqrt(6 / 512))
    assert uniform(stage.attention.qkv.weight, math.sqrt(6 / 1024))
    assert not stage.attention.qkv.bias.any()
    assert stage.attention.overlap_scale.min() >= 0
    assert stage.attention.overlap_scale.max() <= 4
    assert math.isclose(published.content.weight.detach().std(), 1, rel_tol=0.05)


def test_the_neck_starts_with_xaviers_weights_and_no_bias():
    neck = ChannelMapping((96, 192), 256)
    assert all(not conv.bias.any() for conv in neck.lateral)
    assert uniform(neck.lateral[0].weight, math.sqrt(6 / (96 + 256)))


def features(batch: int = 2) -> list[torch.Tensor]:
    return [torch.randn(batch, 64, 96 // s, 128 // s, requires_grad=True) for s in STRIDES]


def test_first_forward_leaves_every_box_where_it_is():
    stages = Decoder(AdaMixerConfig(**SMALL), STRIDES, 7)(features(), torch.tensor([[96, 128], [80, 100]]))
    assert len(stages) == 6
    for stage in stages:
        for boxes, (h, w) in zip(stage.boxes_xyxy, ((96.0, 128.0), (80.0, 100.0)), strict=True):
            assert_close(boxes, torch.tensor([0, 0, w, h]).expand(9, 4), atol=1e-3, rtol=0)


def test_box_losses_stay_in_their_stage_but_for_content():
    """Boxes are detached between stages: a stage's box loss reaches no earlier box head, but all content."""
    decoder = Decoder(AdaMixerConfig(**SMALL, start="grid"), STRIDES, 7)
    for stage in decoder.stages:
        torch.nn.init.normal_(stage.box_head.weight, std=0.01)
    decoder(features(), torch.tensor([[96, 128], [80, 100]]))[2].boxes_xyxy.sum().backward()
    heads = [stage.box_head.weight.grad for stage in decoder.stages]
    assert heads[0] is None
    assert heads[1] is None
    assert heads[2].any()
    assert decoder.stages[0].mixing.out.weight.grad.any()
    assert decoder.content.weight.grad.any()


def test_fresh_queries_predict_different_classes():
    decoder = Decoder(AdaMixerConfig(**SMALL), STRIDES, 7)
    logits = decoder(features(), torch.tensor([[96, 128], [80, 100]]))[-1].logits
    assert logits[0].std(dim=0).min() > 1e-3


def test_padded_features_predict_the_same():
    """Past the neck nothing sees padding: only its GroupNorm does, as in the authors' code."""
    decoder = Decoder(AdaMixerConfig(**SMALL), STRIDES, 7).eval()
    sizes = torch.tensor([[96, 128], [80, 100]])
    tight = features()
    loose = [F.pad(f, (0, 64 // s, 0, 32 // s)) for f, s in zip(tight, STRIDES, strict=True)]
    for a, b in zip(decoder(tight, sizes), decoder(loose, sizes), strict=True):
        assert_close(a.logits, b.logits, atol=1e-4, rtol=1e-4)
        assert_close(a.boxes_xyxy, b.boxes_xyxy, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"queries": 0}, "--detector.queries must be at least 1, got 0"),
        ({"heads": 7}, r"--detector.width 256 must split evenly into 7 \(--detector.heads\)"),
        ({"groups": 3}, r"--detector.feature-width 256 must split evenly into 3 \(--detector.groups\)"),
        ({"feature_width": 48}, "--detector.feature-width 48 must split evenly into 32"),
        ({"class_layers": -1}, "--detector.class-layers must be 0 or more, got -1"),
        ({"detections": 0}, "--detector.detections must be at least 1, got 0"),
        ({"position_scale": 0.0}, "--detector.position-scale must be above 0, got 0.0"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_their_flag(settings, message):
    with pytest.raises(ConfigError, match=message):
        AdaMixerConfig(**settings)
