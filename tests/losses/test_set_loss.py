"""Set loss: against a loop over stages, images and queries, and what holds for any predictions."""

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch.testing import assert_close

from qdet.boxes import generalized_iou
from qdet.errors import ConfigError, DivergedError
from qdet.losses import SetLoss, SetLossConfig
from qdet.types import Predictions, Targets

S, B, N, K = 3, 4, 6, 5
SIZES = torch.tensor([[96, 128], [80, 100], [64, 64], [128, 96]])
CONFIG = SetLossConfig(
    classification=1.5, l1=4.0, giou=3.0, match_classification=1.0, match_l1=6.0, match_giou=2.5
)


def random_boxes(*shape: int) -> torch.Tensor:
    corners = 60 * torch.rand(*shape, 2, dtype=torch.float64)
    return torch.cat((corners, corners + 2 + 30 * torch.rand(*shape, 2, dtype=torch.float64)), dim=-1)


def predictions() -> list[Predictions]:
    return [
        Predictions(
            torch.randn(B, N, K, dtype=torch.float64).requires_grad_(), random_boxes(B, N).requires_grad_()
        )
        for _ in range(S)
    ]


def objects(*counts: int) -> Targets:
    return Targets(random_boxes(sum(counts)), torch.randint(0, K, (sum(counts),)), counts)


@pytest.fixture
def loss() -> SetLoss:
    return CONFIG.build(K)


def focal(p: torch.Tensor, positive: bool) -> torch.Tensor:
    return -0.25 * (1 - p) ** 2 * p.log() if positive else -0.75 * p**2 * (1 - p).log()


def slowly(stage: Predictions, targets: Targets) -> tuple[float, float, float, list[bool]]:
    """One stage's unweighted terms, image by image and query by query, as the papers say it."""
    sums, right = [0.0, 0.0, 0.0], []
    for i, (boxes, labels) in enumerate(targets.per_image()):
        h, w = SIZES[i].tolist()
        whwh = torch.tensor([w, h, w, h], dtype=torch.float64)
        p = stage.logits[i].detach().sigmoid()
        found = stage.boxes_xyxy[i].detach()
        cost = torch.zeros(N, len(boxes))
        for q in range(N):
            for t in range(len(boxes)):
                one = p[q, labels[t]]
                cost[q, t] = (
                    CONFIG.match_classification * (focal(one, True) - focal(one, False))
                    + CONFIG.match_l1 * ((found[q] - boxes[t]) / whwh).abs().sum()
                    - CONFIG.match_giou * generalized_iou(found[q], boxes[t])
                )
        matched = dict(zip(*linear_sum_assignment(cost.numpy()), strict=True))
        for q in range(N):
            for k in range(K):
                sums[0] += focal(p[q, k], q in matched and labels[matched[q]] == k).item()
            if q in matched:
                t = matched[q]
                sums[1] += ((found[q] - boxes[t]) / whwh).abs().sum().item()
                sums[2] += 1 - generalized_iou(found[q], boxes[t]).item()
                right.append(bool(p[q].argmax() == labels[t]))
    return (*sums, right)


@pytest.mark.parametrize(
    "counts", [(2, 0, 5, 1), (0, 0, 0, 0), (9, 1, 6, 7)], ids=["mixed", "empty", "crowded"]
)
def test_matches_a_loop_over_everything(loss, counts):
    stages, targets = predictions(), objects(*counts)
    got = loss(stages, targets, SIZES, normalizer=7)
    total = 0.0
    for i, stage in enumerate(stages):
        classes, l1, giou, right = slowly(stage, targets)
        want = {"classification": 1.5 * classes / 7, "l1": 4 * l1 / 7, "giou": 3 * giou / 7}
        total += sum(want.values())
        want["pos_acc"] = sum(right) / max(len(right), 1)
        for name, value in want.items():
            assert got.terms[f"stage{i}/{name}"].item() == pytest.approx(value, rel=1e-5, abs=1e-8)
    assert got.total.item() == pytest.approx(total, rel=1e-5)
    for name in ("classification", "l1", "giou"):
        stages_of = [got.terms[f"stage{i}/{name}"] for i in range(S)]
        assert_close(got.terms[name], sum(stages_of))
    assert got.terms["pos_acc"].equal(got.terms[f"stage{S - 1}/pos_acc"])


def test_terms_carry_no_graph_and_the_total_does(loss):
    got = loss(predictions(), objects(1, 2, 0, 1), SIZES, normalizer=4)
    assert got.total.requires_grad
    assert not any(term.requires_grad for term in got.terms.values())


@pytest.mark.parametrize("counts", [(0, 0, 0, 0), (0, 2, 0, 0)])
def test_every_prediction_gets_a_gradient_even_without_objects(loss, counts):
    stages = predictions()
    loss(stages, objects(*counts), SIZES, normalizer=1.0).total.backward()
    for stage in stages:
        assert stage.logits.grad.any()
        assert stage.boxes_xyxy.grad is not None
        assert bool(stage.boxes_xyxy.grad.any()) == any(counts)


def test_a_batch_is_the_sum_of_its_images(loss):
    """What makes the global batch independent of how it is split over ranks and passes."""
    stages, targets = predictions(), objects(2, 0, 5, 1)
    whole = loss(stages, targets, SIZES, normalizer=8).total
    parts = []
    for i, (boxes, labels) in enumerate(targets.per_image()):
        alone = [Predictions(s.logits[i : i + 1], s.boxes_xyxy[i : i + 1]) for s in stages]
        parts.append(loss(alone, Targets(boxes, labels, (len(boxes),)), SIZES[i : i + 1], normalizer=8).total)
    assert_close(whole, sum(parts))


def test_the_margin_of_giou_is_a_share_of_each_image():
    """Images of one shape but different size: what is the same share of them costs the same."""
    config = SetLossConfig(giou_margin=0.1)
    sizes = torch.tensor([[40, 80], [80, 160]])
    boxes = random_boxes(2)[:, None] / 2
    box, wanted = boxes
    stage = Predictions(torch.zeros(2, 1, K), torch.stack((box, 2 * box)).float())
    labels = torch.zeros(2, dtype=torch.int64)
    targets = Targets(torch.cat((wanted, 2 * wanted)).float(), labels, (1, 1))
    found = config.build(K)([stage], targets, sizes, normalizer=1).terms["giou"]
    whwh = torch.tensor([80, 40, 80, 40])
    one = 1 - generalized_iou(box / whwh, wanted / whwh, margin=0.1)
    assert_close(found, config.giou * 2 * one[0].float())


def test_the_normalizer_may_be_a_tensor(loss):
    stages, targets = predictions(), objects(2, 0, 5, 1)
    a = loss(stages, targets, SIZES, normalizer=torch.tensor(3.0))
    assert_close(a.total, loss(stages, targets, SIZES, normalizer=3.0).total)


def test_perfect_predictions_cost_next_to_nothing(loss):
    targets = objects(2, 0, 5, 1)
    logits = torch.full((B, N, K), -20.0, dtype=torch.float64)
    boxes = random_boxes(B, N)
    for i, (own, labels) in enumerate(targets.per_image()):
        boxes[i, : len(own)] = own
        logits[i, torch.arange(len(own)), labels] = 20
    got = loss([Predictions(logits, boxes)], targets, SIZES, normalizer=8)
    assert got.total.item() < 1e-6
    assert got.terms["pos_acc"] == 1


def test_half_precision_is_compared_in_float32(loss):
    stages, targets = predictions(), objects(2, 0, 5, 1)
    halves = [Predictions(s.logits.detach().bfloat16(), s.boxes_xyxy.detach().float()) for s in stages]
    widened = [Predictions(s.logits.float(), s.boxes_xyxy) for s in halves]
    with torch.autocast("cpu", torch.bfloat16):
        got = loss(halves, targets, SIZES, normalizer=8).total
    assert got.dtype == torch.float32
    assert got.equal(loss(widened, targets, SIZES, normalizer=8).total)


@pytest.mark.parametrize("field", ["logits", "boxes_xyxy"])
def test_nonfinite_predictions_are_named(loss, field):
    stages = predictions()
    with torch.no_grad():
        getattr(stages[1], field)[2] = torch.nan
    with pytest.raises(DivergedError, match="stage 1, image 2"):
        loss(stages, objects(1, 1, 1, 1), SIZES, normalizer=1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"l1": -1.0}, "--loss.l1 must be 0 or more, got -1.0"),
        ({"match_giou": -0.5}, "--loss.match-giou must be 0 or more"),
        ({"giou_margin": -1e-6}, "--loss.giou-margin must be 0 or more"),
        ({"alpha": 1.5}, "--loss.alpha must be between 0 and 1, got 1.5"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_their_flag(settings, message):
    with pytest.raises(ConfigError, match=message):
        SetLossConfig(**settings)
