"""Conditional DETR's own parts: how it starts, and reference points that its queries' positions make."""

import math

import pytest
import torch
from torch.testing import assert_close

from qdet.detectors import ConditionalDETRConfig
from qdet.errors import ConfigError


def test_starts_as_the_authors_code_does():
    torch.manual_seed(0)
    detector = ConditionalDETRConfig(encoder_layers=2, decoder_layers=2).build(91)
    assert_close(detector.class_head.bias, torch.full((91,), -4.59512), atol=1e-5, rtol=0)
    assert not detector.box_head.layers[-1].weight.any()
    assert not detector.box_head.layers[-1].bias.any()
    bound = math.sqrt(6 / 512)
    for weight in (
        detector.decoder.layers[1].cross_attention.update.query_place.weight,
        detector.decoder.place_scale.layers[0].weight,
    ):
        assert 0.99 * bound < weight.abs().max() <= bound
    assert detector.decoder.position.weight.std().item() == pytest.approx(1, abs=0.02)


def test_fresh_boxes_lie_at_the_reference_points():
    detector = ConditionalDETRConfig().demo().build(5).eval()
    points = []
    detector.decoder.register_forward_hook(lambda _, args, out: points.append(out[1]))
    sizes = torch.tensor([[128, 96], [100, 128]])
    with torch.no_grad():
        stages = detector(torch.randint(0, 256, (2, 3, 128, 128), dtype=torch.uint8), sizes)
    extent = sizes.flip(-1).unsqueeze(1)
    for stage in stages:
        low, high = stage.boxes_xyxy.split(2, dim=-1)
        assert_close((low + high) / 2, points[0] * extent, rtol=1e-4, atol=1e-3)
        assert_close(high - low, (extent / 2).expand_as(low))


def test_reference_points_learn_with_the_positions_of_queries():
    detector = ConditionalDETRConfig().demo().build(5)
    sizes = torch.tensor([[64, 64]])
    stage = detector(torch.zeros(1, 3, 64, 64, dtype=torch.uint8), sizes)[0]
    stage.boxes_xyxy.square().sum().backward()
    assert detector.decoder.position.weight.grad.any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"queries": 0}, "--detector.queries must be at least 1, got 0"),
        ({"detections": 0}, "--detector.detections must be at least 1, got 0"),
        ({"heads": 7}, "--detector.width 256 must split evenly into 7"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_their_flag(settings, message):
    with pytest.raises(ConfigError, match=message):
        ConditionalDETRConfig(**settings)
