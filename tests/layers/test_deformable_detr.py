"""Deformable DETR's facts that no recording shows: initialisation, detached references, small images."""

import math

import pytest
import torch

from qdet.detectors import DeformableDETRConfig
from qdet.errors import ConfigError
from qdet.types import PaddedSizes, Proposals

CLASSES = 5
SIZES = PaddedSizes(torch.tensor([[64, 64], [48, 40]]), (64, 64))
VARIANTS = {
    "plain": {},
    "single scale": {"levels": 1},
    "refine": {"refine": True},
    "two-stage": {"refine": True, "two_stage": True},
}


@pytest.fixture(params=VARIANTS)
def config(request) -> DeformableDETRConfig:
    return DeformableDETRConfig(**VARIANTS[request.param]).demo()


def maps(detector) -> list[torch.Tensor]:
    return [
        torch.randn(2, c, 64 // s, 64 // s)
        for c, s in zip(detector.backbone.channels, detector.backbone.strides, strict=True)
    ]


def test_starts_as_the_authors_code(config):
    """Fresh scores are 0.01, boxes stay at their references, those of points are 0.12 of the image."""
    detector = config.build(CLASSES).eval()
    with torch.no_grad():
        stages = detector.decode(maps(detector), SIZES)
    heads = detector.heads
    assert len(heads) == (config.decoder_layers + config.two_stage if config.refine else 1)
    sizes = [0 if config.two_stage else -2] + [0] * (len(heads) - 1)
    for head, size in zip(heads, sizes, strict=True):
        assert head.class_head.bias.tolist() == [pytest.approx(-math.log(99), abs=1e-6)] * CLASSES
        assert not head.box_head.layers[-1].weight.any()
        assert head.box_head.layers[-1].bias.tolist() == [0, 0, size, size]
    extent = SIZES.sizes_hw.flip(-1).unsqueeze(1)
    if not config.two_stage:
        share = (stages[0].boxes_xyxy[..., 2:] - stages[0].boxes_xyxy[..., :2]) / extent
        torch.testing.assert_close(share, torch.full_like(share, 1 / (1 + math.exp(2))))
    if config.refine:
        torch.testing.assert_close(stages[-1].boxes_xyxy, stages[-2].boxes_xyxy, rtol=1e-3, atol=1e-3)


def test_levels_and_queries_start_from_a_normal_distribution():
    detector = DeformableDETRConfig().demo().build(CLASSES)
    assert detector.encoder.level_embedding.weight.std().item() == pytest.approx(1, abs=0.15)
    assert detector.start.embedding.weight.std().item() == pytest.approx(1, abs=0.05)
    assert not detector.start.reference_points.bias.any()


def test_no_gradient_between_the_boxes_of_layers():
    """A layer's head learns from its own boxes alone: references are detached."""
    detector = DeformableDETRConfig(refine=True).demo().build(CLASSES)
    stages = detector.decode(maps(detector), SIZES)
    stages[-1].boxes_xyxy.sum().backward()
    grads = [any(p.grad is not None for p in head.box_head.parameters()) for head in detector.heads]
    assert grads == [False] * (len(grads) - 1) + [True]


def test_encoder_tokens_do_not_depend_on_queries():
    detector = DeformableDETRConfig(refine=True, two_stage=True).demo().build(CLASSES)
    stages = detector.decode(maps(detector), SIZES)
    sum(stage.boxes_xyxy.sum() + stage.logits.sum() for stage in stages[1:]).backward()
    assert detector.start.projection.weight.grad is None
    assert detector.start.position.projection.weight.grad is not None


def test_fewer_tokens_than_queries():
    detector = DeformableDETRConfig(refine=True, two_stage=True).demo().build(CLASSES).eval()
    sizes = PaddedSizes(torch.tensor([[32, 32]]), (32, 32))
    features = [m[:1, :, : m.shape[-2] // 2, : m.shape[-1] // 2] for m in maps(detector)]
    with torch.no_grad():
        proposals, *stages = detector.decode(features, sizes)
    tokens = 16 + 4 + 1 + 1
    assert isinstance(proposals, Proposals)
    assert proposals.class_agnostic
    assert proposals.logits.shape == (1, tokens, CLASSES)
    assert {stage.logits.shape for stage in stages} == {(1, tokens, CLASSES)}


def test_infinite_anchors_are_boxes_of_ones():
    """What tokens without an anchor predict, in pixels: a box of the image's size around its last corner."""
    detector = DeformableDETRConfig(refine=True, two_stage=True).demo().build(CLASSES).eval()
    with torch.no_grad():
        proposals = detector.decode(maps(detector), SIZES)[0]
    first = proposals.boxes_xyxy[1].view(-1, 4)[7]  # of the first row of 8 tokens, 5 are in the image
    assert first.tolist() == [20, 24, 60, 72]
    assert proposals.boxes_xyxy.isfinite().all()


def test_two_stages_need_refinement():
    with pytest.raises(ConfigError, match=r"--detector\.two-stage needs --detector\.refine"):
        DeformableDETRConfig(two_stage=True)
