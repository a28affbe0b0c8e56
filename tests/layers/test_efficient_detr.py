"""Efficient DETR: what becomes a query, how many do, and what both parts share."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from qdet.backbones import ResNetConfig
from qdet.boxes import xyxy_to_cxcywh
from qdet.detectors import EfficientDETRConfig
from qdet.detectors.complexity import count_macs, count_parameters
from qdet.layers.token_levels import flatten_maps, token_levels
from qdet.layers.transformer.token_proposals import grid_anchors
from qdet.losses import FOCAL_DETR_LOSS
from qdet.types import PaddedSizes, Proposals, Targets

CLASSES = 5
SIZES = PaddedSizes(torch.tensor([[64, 64], [48, 40]]), (64, 64))
CONFIG = EfficientDETRConfig().demo()


@pytest.fixture
def detector():
    return CONFIG.build(CLASSES)


def maps(detector) -> list[torch.Tensor]:
    return [
        torch.randn(2, c, 64 // s, 64 // s)
        for c, s in zip(detector.backbone.channels, detector.backbone.strides, strict=True)
    ]


@pytest.mark.parametrize(("progress", "queries"), [(0.0, 60), (0.25, 52), (0.5, 45), (1.0, 30)])
def test_number_of_queries_falls_over_the_training(detector, progress, queries):
    detector.progress = progress
    proposals, stage = detector.decode(maps(detector), SIZES)
    assert stage.logits.shape == (2, queries, CLASSES)
    assert proposals.logits.shape[1] == 64 + 16 + 4 + 1
    detector.eval()
    assert detector.decode(maps(detector), SIZES)[1].logits.shape == (2, 30, CLASSES)


@pytest.mark.parametrize("progress", [0.0, 0.5, 1.0])
def test_loss_takes_any_number_of_queries(detector, progress):
    detector.progress = progress
    corners = 20 * torch.rand(50, 2)
    targets = Targets(torch.cat((corners, corners + 9), 1), torch.randint(0, CLASSES, (50,)), (48, 2))
    stages = detector.decode(maps(detector), SIZES)
    losses = FOCAL_DETR_LOSS.build(CLASSES)(stages, targets, SIZES.sizes_hw, normalizer=50)
    losses.total.backward()
    assert losses.total.isfinite()
    assert losses.terms["proposals/classification"] > 0
    matched = FOCAL_DETR_LOSS.build(CLASSES).match(stages, targets, SIZES.sizes_hw)
    assert [a.queries.shape[1] for a in matched] == [50, min(48, detector.proposals) + 2]


def test_queries_are_the_tokens_of_highest_score(detector):
    """Fresh boxes stay at their anchors, so the best tokens' anchors are what the decoder returns."""
    detector.eval()
    features = maps(detector)
    with torch.no_grad():
        proposals, stage = detector.decode(features, SIZES)
        levels = token_levels(detector.neck(features[1:]), SIZES)
    assert isinstance(proposals, Proposals)
    assert not proposals.class_agnostic
    anchors, usable = grid_anchors(levels)
    scores = proposals.logits.amax(-1).masked_fill(~usable, -1e9)
    extent = SIZES.sizes_hw.flip(-1).repeat(1, 2).unsqueeze(1)
    boxes = xyxy_to_cxcywh(stage.boxes_xyxy) / extent
    for image in range(2):
        best = scores[image].argsort(descending=True)[:30]
        count = min(30, int(usable[image].sum()))
        torch.testing.assert_close(boxes[image, :count], anchors[image, best[:count]])


def test_tokens_under_the_padding_come_last(detector):
    """The second image has 30 + 9 + 4 tokens of its own at most; those alone become its 30 queries."""
    detector.eval()
    with torch.no_grad():
        _, stage = detector.decode(maps(detector), SIZES)
    centers = xyxy_to_cxcywh(stage.boxes_xyxy[1])[:, :2]
    assert (centers < torch.tensor([40, 48])).all()


def test_one_head_and_features_that_carry_gradients(detector):
    names = [name for name, _ in detector.named_parameters() if "class_head" in name]
    assert names == ["head.class_head.weight", "head.class_head.bias"]
    features = maps(detector)
    _, stage = detector.decode(features, SIZES)
    content = stage.logits.sum()
    content.backward()
    assert detector.encoder.layers[-1].ffn.update.contract.weight.grad.any()


def test_dense_part_predicts_from_the_encoders_tokens(detector):
    detector.eval()
    features = maps(detector)
    with torch.no_grad():
        tokens = detector.neck(features[1:])
        levels = token_levels(tokens, SIZES)
        memory = detector.dense(detector.encoder(flatten_maps(tokens), levels))
        _, usable = grid_anchors(levels)
        want = detector.head.class_head(memory)
        got = detector.decode(features, SIZES)[0].logits
    torch.testing.assert_close(got[usable], want[usable])


def first_references(detector, features) -> torch.Tensor:
    seen = []
    hook = detector.position.register_forward_hook(lambda _, args, out: seen.append(args[0]))
    detector.decode(features, SIZES)[-1].logits.sum().backward()
    hook.remove()
    return seen[0]


@pytest.mark.parametrize("dims", [2, 4])
@pytest.mark.parametrize("layers", [1, 6])
@pytest.mark.parametrize("reference", ["learned", "grid", "image"])
def test_references_of_the_ablation_are_the_same_for_every_image(reference, layers, dims):
    config = replace(CONFIG, reference=reference, reference_dims=dims, decoder_layers=layers)
    detector = config.build(CLASSES)
    detector.progress = 0.0
    seen = first_references(detector, maps(detector))
    assert seen.shape == (2, 30, dims)
    assert seen[0].equal(seen[1])
    if reference == "learned":
        assert seen[0].equal(detector.start.learned.weight.sigmoid())
        assert detector.start.learned.weight.grad.any()
    elif reference == "image":
        assert (seen[0] == torch.tensor([0.5, 0.5, 1.0, 1.0])[:dims]).all()
    else:
        rows, columns = (seen[0][:, k].unique() for k in (1, 0))
        assert_close(rows, (torch.arange(5) + 0.5) / 5)
        assert_close(columns, (torch.arange(6) + 0.5) / 6)


def test_points_are_the_centres_of_the_best_tokens_boxes():
    boxes, points = CONFIG.build(CLASSES).eval(), replace(CONFIG, reference_dims=2).build(CLASSES).eval()
    points.load_state_dict(boxes.state_dict(), strict=True)
    features = maps(boxes)
    assert first_references(points, features).equal(first_references(boxes, features)[..., :2])


def test_learned_content_does_not_depend_on_the_image():
    detector = replace(CONFIG, content="learned").build(CLASSES)
    seen = []
    detector.decoder.register_forward_hook(lambda _, args, out: seen.append(args[0]))
    first_references(detector, maps(detector))
    assert seen[0][0].equal(seen[0][1])
    assert seen[0][0].equal(detector.start.content.weight)
    assert detector.start.content.weight.grad.any()


@pytest.mark.parametrize(
    ("depth", "layers", "params", "gmacs"),
    [(50, 3, 32, 159), (50, 6, 35, 210), (101, 3, 51, 239), (101, 6, 54, 289)],
)
def test_efficient_detr_costs_what_its_paper_says(depth, layers, params, gmacs):
    """Table 1 of the paper; without the block behind the encoder, no number of operations agrees."""
    config = EfficientDETRConfig(backbone=ResNetConfig(depth=depth), encoder_layers=layers)
    with torch.device("meta"):
        detector = config.build(91).eval()
    image, size = torch.empty(1, 3, 800, 1333), torch.tensor([[800, 1333]])
    macs = count_macs(detector, image, size)
    tokens = sum(-(-800 // stride) * -(-1333 // stride) for stride in (8, 16, 32, 64))
    assert tokens == 22_223
    assert int(count_parameters(detector, trainable=True) / 1e6) == params
    assert round(macs / 1e9) == gmacs
    assert round((macs - tokens * 2 * 256 * 1024) / 1e9) in range(gmacs - 12, gmacs - 10)
