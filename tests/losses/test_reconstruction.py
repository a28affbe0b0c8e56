"""The loss of extra queries: against a loop over stages, images and queries, and how it adds up."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from qdet.boxes import generalized_iou, xyxy_to_cxcywh
from qdet.data.denoising.config import DenoisingConfig
from qdet.data.denoising.draw import NoiseSource, pack
from qdet.layers.denoising.apply import denoise
from qdet.losses import DINO_LOSS, SetLoss
from qdet.types import Predictions, Reconstructions, Targets

S, K, N = 2, 5, 4
EXTRA = ("denoising", "reconstruction")
CONFIG = replace(DINO_LOSS, classification=1.5, l1=4.0, giou=3.0)
counts_of_images = st.lists(st.integers(0, 4), min_size=1, max_size=3).map(tuple)
configs = st.builds(
    DenoisingConfig,
    kind=st.sampled_from(["plain", "contrastive"]),
    queries=st.integers(1, 20),
    grouping=st.sampled_from(["image", "batch"]),
)


def boxes(*shape: int) -> torch.Tensor:
    corners = 60 * torch.rand(*shape, 2, dtype=torch.float64)
    return torch.cat((corners, corners + 2 + 30 * torch.rand(*shape, 2, dtype=torch.float64)), dim=-1)


class Batch:
    """Objects, their extra queries, and predictions that need not be near them."""

    def __init__(self, config: DenoisingConfig, counts: tuple[int, ...]) -> None:
        torch.manual_seed(0)
        total = sum(counts)
        self.targets = Targets(boxes(total), torch.randint(0, K, (total,)), counts)
        self.sizes = torch.tensor([[96 - 4 * i, 128 - 8 * i] for i in range(len(counts))])
        source = NoiseSource(config=config, seed=0, epoch=0)
        noise = pack([source.draw(i, n) for i, n in enumerate(counts)])
        self.extra, self.truth = denoise(config, self.targets, noise, self.sizes, K)
        shape = self.extra.labels.shape
        self.stages = [
            Reconstructions(torch.randn(*shape, K, dtype=torch.float64), boxes(*shape)) for _ in range(S)
        ]
        images = len(counts)
        own = Predictions(torch.randn(images, N, K, dtype=torch.float64), boxes(images, N))
        self.own = [own] * S

    def losses(self, normalizer: float = 3.0):
        return SetLoss(CONFIG, K)(
            [*self.stages, *self.own],
            self.targets,
            self.sizes,
            normalizer=normalizer,
            truth=self.truth,
        )


def focal(p: float, positive: bool) -> torch.Tensor:
    q = torch.tensor(p, dtype=torch.float64)
    return -0.25 * (1 - q) ** 2 * q.log() if positive else -0.75 * q**2 * (1 - q).log()


def slowly(config: DenoisingConfig, batch: Batch, stage: Predictions) -> tuple[float, float, float]:
    """One stage's unweighted sums over images, each divided by its groups."""
    sums, (images, width) = [0.0, 0.0, 0.0], batch.extra.labels.shape
    wanted = dict(zip(batch.truth.queries.tolist(), batch.truth.objects.tolist(), strict=True))
    for image in range(images):
        groups = int(batch.truth.groups[image])
        h, w = batch.sizes[image].tolist()
        extent = torch.tensor([w, h, w, h], dtype=torch.float64)
        for slot in range(width):
            thing = wanted.get(image * width + slot)
            if batch.extra.filled[image, slot] or (
                config.grouping == "batch" and config.kind == "contrastive"
            ):
                for k, p in enumerate(stage.logits[image, slot].sigmoid().tolist()):
                    right = thing is not None and k == int(batch.targets.labels[thing])
                    sums[0] += float(focal(p, right)) / groups
            if thing is not None:
                a, b = stage.boxes_xyxy[image, slot], batch.targets.boxes_xyxy[thing]
                distance = (xyxy_to_cxcywh(a / extent) - xyxy_to_cxcywh(b / extent)).abs().sum()
                sums[1] += float(distance) / groups
                sums[2] += float(1 - generalized_iou(a / extent, b / extent, margin=1e-6)) / groups
    return sums[0], sums[1], sums[2]


@settings(max_examples=40)
@given(config=configs, counts=counts_of_images)
def test_terms_are_those_of_a_loop_over_queries(config, counts):
    batch = Batch(config, counts)
    losses = batch.losses(normalizer=3.0)
    weights = {"classification": 1.5, "l1": 4.0, "giou": 3.0}
    total = 0.0
    for i, stage in enumerate(batch.stages):
        for (name, weight), term in zip(weights.items(), slowly(config, batch, stage), strict=True):
            got = losses.terms[f"denoising/stage{i}/{name}"].item()
            assert got == pytest.approx(weight * term / 3, rel=1e-9, abs=1e-12), name
            total += weight * term / 3
    assert losses.terms["reconstruction"].item() == pytest.approx(total, rel=1e-9, abs=1e-12)
    own = SetLoss(CONFIG, K)(batch.own, batch.targets, batch.sizes, normalizer=3.0)
    assert losses.total.item() == pytest.approx(total + own.total.item(), rel=1e-9)
    assert {name: v for name, v in losses.terms.items() if not name.startswith(EXTRA)} == own.terms


@settings(max_examples=40)
@given(config=configs, counts=st.lists(st.integers(0, 4), min_size=2, max_size=3).map(tuple))
def test_by_image_a_batch_is_the_sum_of_its_images(config, counts):
    """What images are together, and how wide the fullest one makes the batch, changes nothing."""
    config = replace(config, grouping="image")
    batch = Batch(config, counts)
    parts = []
    for i, (own_boxes, labels) in enumerate(batch.targets.per_image()):
        alone = Targets(own_boxes, labels, (counts[i],))
        noise = pack([NoiseSource(config=config, seed=0, epoch=0).draw(i, counts[i])])
        extra, truth = denoise(config, alone, noise, batch.sizes[i : i + 1], K)
        width = extra.labels.shape[1]
        stages = [
            Reconstructions(p.logits[i : i + 1, :width], p.boxes_xyxy[i : i + 1, :width])
            for p in batch.stages
        ]
        own = [Predictions(p.logits[i : i + 1], p.boxes_xyxy[i : i + 1]) for p in batch.own]
        loss = SetLoss(CONFIG, K)
        parts.append(loss([*stages, *own], alone, batch.sizes[i : i + 1], normalizer=3.0, truth=truth).terms)
    whole = batch.losses().terms
    for name in whole:
        if name.startswith(EXTRA):
            assert_close(sum(part[name] for part in parts), whole[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", ["plain", "contrastive"])
def test_what_hidden_slots_predict_changes_nothing(kind):
    config = DenoisingConfig(kind=kind, queries=12)
    batch = Batch(config, (4, 1, 0))
    before = batch.losses()
    empty = ~batch.extra.filled.unsqueeze(-1)
    assert empty.any()
    batch.stages = [
        Reconstructions(p.logits + 9 * empty, torch.where(empty, boxes(1), p.boxes_xyxy))
        for p in batch.stages
    ]
    assert batch.losses().terms == before.terms


def test_terms_are_the_same_without_objects():
    """Ranks add up their terms by place: none may be missing where a rank has no object."""
    config = DenoisingConfig(kind="contrastive")
    none, some = Batch(config, (0, 0)).losses(), Batch(config, (2, 0)).losses()
    assert list(none.terms) == list(some.terms)
    assert none.terms["reconstruction"] == 0
    assert none.total.isfinite()


def test_objects_without_a_query_are_counted():
    config = DenoisingConfig(kind="plain", max_queries=3)
    assert Batch(config, (5, 4, 2)).losses().terms["denoising/dropped"] == 3
