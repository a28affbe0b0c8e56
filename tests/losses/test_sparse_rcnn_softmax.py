"""Sparse R-CNN that scores one of the classes or no object, against a literal reading of its code."""

import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment

from qdet.boxes import generalized_iou
from qdet.detectors import AdaMixerConfig, DETRConfig, SparseRCNN, SparseRCNNConfig
from qdet.errors import ConfigError
from qdet.job import Job
from qdet.losses import DETR_LOSS, SPARSE_RCNN_LOSS, SPARSE_RCNN_SOFTMAX_LOSS
from qdet.types import Predictions, Targets

CLASSES, NO_OBJECT = 5, 0.1
SIZES = torch.tensor([[64, 96], [80, 48]])


def detector(**settings) -> SparseRCNN:
    return SparseRCNNConfig(**settings).demo().build(CLASSES)


def targets(*counts: int) -> Targets:
    total = sum(counts)
    corners = 30 * torch.rand(total, 2)
    boxes = torch.cat((corners, corners + 4 + 14 * torch.rand(total, 2)), dim=1)
    return Targets(boxes, torch.randint(0, CLASSES, (total,)), counts)


def literally(stage: Predictions, wanted: Targets) -> dict[str, float]:
    """The terms of one stage with their weights: 2 for classes, 5 for L1, 2 for GIoU, in cost and loss."""
    assigned = torch.full(stage.logits.shape[:2], CLASSES)
    l1 = giou = 0.0
    for i, (boxes, labels) in enumerate(wanted.per_image()):
        height, width = SIZES[i].tolist()
        whwh = torch.tensor([width, height, width, height])
        found, p = stage.boxes_xyxy[i], stage.logits[i].softmax(-1)
        distance = (found[:, None] / whwh - boxes[None] / whwh).abs().sum(-1)
        overlap = torch.stack([generalized_iou(found, box.expand_as(found)) for box in boxes], 1)
        rows, columns = linear_sum_assignment(-2 * p[:, labels] + 5 * distance - 2 * overlap)
        assigned[i, rows] = labels[columns]
        l1 += distance[rows, columns].sum().item()
        giou += (1 - overlap[rows, columns]).sum().item()
    weight = torch.ones(CLASSES + 1)
    weight[-1] = NO_OBJECT
    entropy = F.cross_entropy(stage.logits.transpose(1, 2), assigned, weight)
    objects = max(sum(wanted.counts), 1)
    return {"classification": 2 * entropy.item(), "l1": 5 * l1 / objects, "giou": 2 * giou / objects}


@torch.no_grad()
def test_every_stages_loss_is_that_of_the_code():
    model = detector(scores="softmax").eval()
    images = torch.randint(0, 256, (2, 3, 80, 96)).byte()
    stages, wanted = model(images, SIZES), targets(3, 2)
    terms = SPARSE_RCNN_SOFTMAX_LOSS.build(CLASSES)(stages, wanted, SIZES, normalizer=5).terms
    assert len(stages) == 3
    for i, stage in enumerate(stages):
        for name, value in literally(stage, wanted).items():
            assert terms[f"stage{i}/{name}"].item() == pytest.approx(value, rel=1e-4), (i, name)


@torch.no_grad()
def test_every_query_detects_its_best_class_cut_at_the_border():
    model = detector(scores="softmax")
    logits = torch.randn(2, 30, CLASSES + 1)
    logits[..., -1] += 3  # no object is mostly the best, and never a detection
    boxes = torch.tensor([[-8.0, 4.0, 40.0, 90.0]]).expand(2, 30, 4)
    found = model.detect(Predictions(logits, boxes), SIZES, 2.0 * SIZES)
    for image in range(2):
        for query in range(30):
            p = logits[image, query].exp() / logits[image, query].exp().sum()
            assert found.labels[image, query] == p[:-1].argmax()
            assert found.scores[image, query].item() == pytest.approx(p[:-1].max().item(), rel=1e-5)
    height, width = (2.0 * SIZES[1]).tolist()
    assert found.boxes_xyxy[1, 0].tolist() == [0.0, 8.0, min(80.0, width), min(180.0, height)]


def test_only_sigmoid_scores_start_at_a_prior():
    softmax, sigmoid = (
        detector(scores=scores).decoder.stages[1].class_head for scores in ("softmax", "sigmoid")
    )
    assert softmax.bias.shape == (CLASSES + 1,)
    assert softmax.bias.abs().max() <= softmax.in_features**-0.5
    assert sigmoid.bias.shape == (CLASSES,)
    assert sigmoid.bias.tolist() == pytest.approx([-4.59512] * CLASSES, abs=1e-5)


@pytest.mark.parametrize(
    ("model", "loss"),
    [
        (SparseRCNNConfig(scores="softmax"), SPARSE_RCNN_LOSS),
        (SparseRCNNConfig(), SPARSE_RCNN_SOFTMAX_LOSS),
        (DETRConfig(), SPARSE_RCNN_LOSS),
        (AdaMixerConfig(), DETR_LOSS),
    ],
)
def test_a_loss_of_other_scores_than_the_detectors_is_refused(model, loss):
    with pytest.raises(
        ConfigError, match=f"--loss.scores {loss.scores} does not go with {type(model).__name__}"
    ):
        Job(name="mixed up", detector=model, loss=loss)
    Job(name="right", detector=SparseRCNNConfig(scores="softmax"), loss=SPARSE_RCNN_SOFTMAX_LOSS)
