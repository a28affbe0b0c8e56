"""Decoders of regions beyond recorded numbers: initialisation, sizes, gradients, encodings, borders."""

import math
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from qdet.backbones import ResNetConfig
from qdet.boxes import xyxy_to_cxcywh
from qdet.detectors import DynamicDETRConfig, SparseRCNNConfig
from qdet.detectors.complexity import count_parameters
from qdet.detectors.detector import clip_to_images
from qdet.layers.position import sine_embedding
from qdet.layers.regions.roi_align import Pyramid
from qdet.types import BatchDetections, PaddedSizes

SIZES = torch.tensor([[64, 96], [60, 80]])


@pytest.fixture
def detector():
    return replace(SparseRCNNConfig().demo(), start="image").build(5)


def predict(detector):
    torch.manual_seed(2)
    facts = zip(detector.backbone.channels, detector.strides, strict=True)
    maps = [torch.randn(2, channels, 64 // stride, 96 // stride) for channels, stride in facts]
    return detector.decode(maps, PaddedSizes(SIZES, (64, 96)))


@pytest.mark.parametrize("classes", [5, 64, 256])
def test_starts_as_the_authors_code_does(classes):
    """Also with as many classes as there are features, where their rule overwrites weights."""
    detector = replace(SparseRCNNConfig().demo(), start="image").build(classes)
    assert (detector.decoder.first_boxes_cxcywh.weight == torch.tensor((0.5, 0.5, 1.0, 1.0))).all()
    assert detector.decoder.content.weight.std().item() == pytest.approx(1, abs=0.1)
    for stage in detector.decoder.stages:
        assert (stage.class_head.bias == math.log(0.01 / 0.99)).all()
        matrices = {name: p for name, p in stage.named_parameters() if p.dim() > 1}
        for name, p in matrices.items():
            bound = math.sqrt(6 / sum(p.shape))  # Xavier's
            assert 0.85 * bound < p.abs().max() <= bound, name
        norms = [m for m in stage.modules() if isinstance(m, torch.nn.LayerNorm)]
        assert all((m.weight == 1).all() and (m.bias == 0).all() for m in norms)


def test_first_boxes_are_the_whole_image_without_its_padding(detector):
    seen = []
    detector.decoder.stages[0].register_forward_pre_hook(lambda _, args: seen.append(args[1]))
    predict(detector)
    assert seen[0][0].unique(dim=0).tolist() == [[0.0, 0.0, 96.0, 64.0]]
    assert seen[0][1].unique(dim=0).tolist() == [[0.0, 0.0, 80.0, 60.0]]


def test_gradients_of_boxes_stop_at_their_stage(detector):
    predict(detector)[-1].boxes_xyxy.sum().backward()
    *before, last = detector.decoder.stages
    assert last.box_head.weight.grad.any()
    assert all(stage.box_head.weight.grad is None for stage in before)
    assert all(stage.ffn.update.expand.weight.grad.any() for stage in before)
    assert detector.decoder.first_boxes_cxcywh.weight.grad is None


@pytest.mark.parametrize(
    ("depth", "queries", "params"),
    [(50, 100, 106_290_888), (50, 300, 106_342_888), (101, 300, 125_335_016)],
)
def test_has_the_size_of_mmdetections_port(depth, queries, params):
    """It trains the weights of batch norms, which are constants in the authors' code."""
    config = SparseRCNNConfig(backbone=ResNetConfig(depth=depth, norm="eval"), queries=queries)
    with torch.device("meta"):
        assert count_parameters(config.build(80)) == params


def test_queries_of_dynamic_detr_are_given_their_boxes():
    detector = DynamicDETRConfig().demo().build(5)
    told = []
    for stage in detector.decoder.stages:
        stage.attention.register_forward_pre_hook(lambda _, args: told.append(args[1]))
    torch.manual_seed(2)
    pyramid = Pyramid.of([torch.randn(2, 64, 64 // s, 96 // s) for s in (4, 8, 16, 32)], (4, 8, 16, 32))
    predictions = detector.decoder(pyramid, SIZES)
    assert len(told) == len(predictions)
    for position, p in zip(told[1:], predictions, strict=False):
        for image, (h, w) in enumerate(SIZES.tolist()):
            x, y, width, height = xyxy_to_cxcywh(p.boxes_xyxy[image]).unbind(-1)
            shares = (y / h, x / w, width / w, height / h)
            parts = [sine_embedding(2 * math.pi * c.unsqueeze(-1), 16) for c in shares]
            assert_close(position[image], torch.cat(parts, dim=-1))


def test_detections_end_at_the_border():
    boxes = torch.tensor([[[-5.0, 10, 30, 500], [200, 10, 220, 30], [1, 2, 3, 4]]])
    found = BatchDetections(boxes, torch.tensor([[0.9, 0.8, 0.7]]), torch.tensor([[0, 1, 2]]))
    clipped = clip_to_images(found, torch.tensor([[100, 150]]))
    assert_close(clipped.boxes_xyxy, torch.tensor([[[0.0, 10, 30, 100], [150, 10, 150, 30], [1, 2, 3, 4]]]))
    assert_close(clipped.scores, torch.tensor([[0.9, 0.0, 0.7]]))
    assert clipped.labels.equal(found.labels)
