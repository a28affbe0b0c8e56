"""Anchor DETR's own parts put together: anchor points, patterns, and its three-level variant."""

import math
from dataclasses import replace

import pytest
import torch

from qdet.backbones import ResNetConfig, SwinConfig
from qdet.detectors import AnchorDETR, AnchorDETRConfig
from qdet.detectors.anchor_detr.anchor_points import GridPoints, LearnedPoints
from qdet.detectors.complexity import count_parameters
from qdet.errors import ConfigError

SIZES = torch.tensor([[64, 96], [50, 70]])
DC5 = ResNetConfig(dilate_c5=True)


def demo(**settings) -> AnchorDETR:
    return replace(AnchorDETRConfig(backbone=DC5).demo(), **settings).build(5)


def predict(detector: AnchorDETR, sizes: torch.Tensor = SIZES):
    return detector(torch.randn(len(sizes), 3, 64, 96), sizes)


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (AnchorDETRConfig(), 37_038_711),
        (AnchorDETRConfig(backbone=DC5), 37_038_711),
        (AnchorDETRConfig(backbone=DC5, levels=3), 39_269_239),
        (AnchorDETRConfig(anchors="grid", points=289), 37_038_711 - 300 * 2),
    ],
    ids=["C5", "DC5", "three levels", "grid"],
)
def test_parameters_are_exactly_the_authors(config, parameters):
    with torch.device("meta"):
        assert count_parameters(config.build(91)) == parameters


def test_learned_points_start_anywhere_and_grid_points_stay():
    learned = LearnedPoints(500)(2)
    assert learned.shape == (2, 500, 2)
    assert 0 <= learned.min() < 0.02 < 0.98 < learned.max() <= 1
    assert list(GridPoints(4).parameters()) == []
    want = torch.tensor([[0.25, 0.25], [0.25, 0.75], [0.75, 0.25], [0.75, 0.75]])
    torch.testing.assert_close(GridPoints(4)(1)[0], want)


def test_fresh_boxes_lie_around_their_points_and_all_points_of_a_pattern_stand_together():
    detector = demo(anchors="grid", points=9, patterns=2)
    boxes = predict(detector, SIZES[:1])[-1].boxes_xyxy[0] / torch.tensor([96.0, 64.0, 96.0, 64.0])
    centres, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    torch.testing.assert_close(centres, detector.decoder.points(1)[0].repeat(2, 1))
    torch.testing.assert_close(size, torch.full_like(size, 1 / (1 + math.exp(2))))


def test_fresh_weights_are_the_authors():
    detector = demo()
    torch.testing.assert_close(detector.class_head.bias, torch.full((5,), -4.59512))
    assert not detector.box_head.layers[-1].weight.any()
    assert detector.box_head.layers[-1].bias.tolist() == [0, 0, -2, -2]
    assert 0.7 < detector.decoder.patterns.weight.std() < 1.3
    assert not detector.neck[0].conv.bias.any()
    hidden = detector.encoder.layers[0].ffn.update.expand.weight  # torch's own: no Xavier over the whole
    assert hidden.abs().max() <= 1 / math.sqrt(hidden.shape[1])


@pytest.mark.parametrize("attention", ["row_column", "plain"])
@pytest.mark.parametrize("anchors", ["learned", "grid"])
def test_every_parameter_of_three_levels_gets_a_gradient(attention, anchors):
    detector = demo(levels=3, attention=attention, anchors=anchors, encoder_layers=5)
    assert [len(detector.encoder.layers), len(detector.encoder.level_layers)] == [3, 2]
    with torch.no_grad():
        for p in detector.parameters():
            p += 0.02 * torch.randn(p.shape)
    stages = predict(detector)
    assert [s.logits.shape for s in stages] == [(2, 32, 5)] * 3
    sum(s.logits.square().sum() + s.boxes_xyxy.square().sum() / 1000 for s in stages).backward()
    assert not [name for name, p in detector.named_parameters() if p.grad is None or not p.grad.any()]


@pytest.mark.parametrize("attention", ["row_column", "plain"])
def test_images_with_three_levels_do_not_see_each_other(attention):
    detector = demo(levels=3, attention=attention).double().eval()
    torch.nn.init.normal_(detector.box_head.layers[-1].weight, std=0.1)
    images = torch.randn(2, 3, 64, 96).double()
    together, alone = detector(images, SIZES)[-1], detector(images[1:], SIZES[1:])[-1]
    torch.testing.assert_close(together.boxes_xyxy[1:], alone.boxes_xyxy)
    torch.testing.assert_close(together.logits[1:], alone.logits)


def test_recomputing_three_levels_changes_nothing():
    detector, images = demo(levels=3).double(), torch.randn(2, 3, 64, 96).double()
    gradients = []
    for detector.recompute in (False, True):
        detector.zero_grad()
        detector(images, SIZES)[-1].logits.square().sum().backward()
        gradients.append(detector.neck[0].conv.weight.grad)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("backbone", [ResNetConfig(), SwinConfig()], ids=["C5", "Swin"])
def test_three_levels_need_two_maps_of_one_stride(backbone):
    with torch.device("meta"), pytest.raises(ConfigError, match=r"levels 3 needs .* are 8, 16, 32"):
        AnchorDETRConfig(backbone=backbone, levels=3).build(5)


def test_impossible_settings_are_refused():
    with pytest.raises(ConfigError, match=r"points must be a square number for a grid, got 300"):
        AnchorDETRConfig(anchors="grid")
    with pytest.raises(ConfigError, match=r"width 48 must split evenly into 32"):
        AnchorDETRConfig(width=48)
