"""Costs by object: against the definitions, image by image, for every kind of loss and any counts."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from qdet.boxes import generalized_iou, xyxy_to_cxcywh
from qdet.losses import DAB_DETR_LOSS, DETR_LOSS, FOCAL_DETR_LOSS, SetLossConfig, costs, set_loss
from qdet.types import Predictions, Targets

K = 5
CONFIGS = {
    "AdaMixer": SetLossConfig(),
    "DETR": DETR_LOSS,
    "Deformable DETR": FOCAL_DETR_LOSS,
    "DAB-DETR": DAB_DETR_LOSS,
    "other weights": replace(SetLossConfig(), gamma=1.5, alpha=0.4, match_l1=0.0, match_giou=3.0),
}


def define(c: SetLossConfig, logits, boxes, wanted, labels, size_hw):
    """One image's costs [objects, queries] by the formulas, without planes or in-place operations."""
    if c.scores == "softmax":
        classes = -logits.softmax(-1)[:, labels]
    else:
        p = logits.sigmoid()[:, labels]
        positive = -c.alpha * (1 - p) ** c.gamma * torch.log(p + c.log_eps)
        classes = positive + (1 - c.alpha) * p**c.gamma * torch.log(1 - p + c.log_eps)
    h, w = size_hw.tolist()
    whwh = torch.tensor([w, h, w, h], dtype=boxes.dtype)
    shape = xyxy_to_cxcywh if c.l1_format == "cxcywh" else torch.clone
    distance = (shape(boxes / whwh)[:, None] - shape(wanted / whwh)).abs().sum(-1)
    iou = generalized_iou(boxes[:, None], wanted, eps=1e-6, margin=c.giou_margin * h * w)
    return (c.match_classification * classes + c.match_l1 * distance - c.match_giou * iou).T


def random_boxes(generator, *shape):
    corners = 90 * torch.rand(*shape, 2, dtype=torch.float64, generator=generator) - 10
    extent = 60 * torch.rand(*shape, 2, dtype=torch.float64, generator=generator) - 5  # some are inside out
    return torch.cat((corners, corners + extent), dim=-1)


@pytest.mark.parametrize("name", CONFIGS)
@settings(max_examples=15, deadline=None)
@given(
    st.integers(1, 3),
    st.lists(st.integers(0, 9), min_size=1, max_size=5),
    st.integers(1, 7),
    st.integers(0, 99),
    st.sampled_from((1, 60, 10**6)),
)
def test_equal_the_definitions_of_every_image(name, stages, counts, queries, seed, cached):
    g, objects, seen = torch.Generator().manual_seed(seed), sum(counts), []
    targets = Targets(random_boxes(g, objects), torch.randint(0, K, (objects,), generator=g), tuple(counts))
    sizes = torch.randint(40, 90, (len(counts), 2), generator=g)
    outputs = [
        Predictions(
            8 * torch.randn(len(counts), queries, K, dtype=torch.float64, generator=g),
            random_boxes(g, len(counts), queries),
        )
        for _ in range(stages)
    ]
    with pytest.MonkeyPatch.context() as patch:
        real = set_loss.assign
        patch.setattr(costs, "CACHED", cached)
        patch.setattr(set_loss, "assign", lambda cost, counts: seen.append(cost) or real(cost, counts))
        CONFIGS[name].build(K).match(outputs, targets, sizes)
    (cost,) = seen
    assert cost.shape == (stages, objects, queries)
    for stage, output in zip(cost, outputs, strict=True):
        for rows, logits, boxes, (wanted, labels), size in zip(
            stage.split(counts), output.logits, output.boxes_xyxy, targets.per_image(), sizes, strict=True
        ):
            assert_close(rows, define(CONFIGS[name], logits, boxes, wanted, labels, size))
