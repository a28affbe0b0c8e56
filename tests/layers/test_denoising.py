"""Extra queries from noised objects: a literal reading, transformers' RT-DETR, and what always holds."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close
from transformers.models.rt_detr import modeling_rt_detr

from qdet.boxes import xyxy_to_cxcywh
from qdet.data.denoising.config import DINO_DENOISING, DN_DETR_DENOISING, DenoisingConfig
from qdet.data.denoising.draw import NoiseSource, pack
from qdet.detectors.adamixer.overlap_attention import OverlapAttention
from qdet.errors import ConfigError
from qdet.layers.attention.multi_head import SelfAttention
from qdet.layers.attention.visibility import hide_groups
from qdet.layers.denoising.apply import denoise, denoise_batch
from qdet.layers.reference_points import inverse_sigmoid
from qdet.layers.transformer.conditional import ConditionalSelfAttention
from qdet.types import Batch, Noise, Targets

K = 7
counts_of_images = st.lists(st.integers(0, 6), min_size=1, max_size=4).map(tuple)
configs = st.builds(
    DenoisingConfig,
    kind=st.sampled_from(["plain", "contrastive"]),
    groups=st.one_of(st.none(), st.integers(1, 4)),
    queries=st.integers(1, 40),
    grouping=st.sampled_from(["image", "batch"]),
    max_queries=st.integers(2, 60),
)


def sizes_of(counts: tuple[int, ...]) -> torch.Tensor:
    return torch.tensor([[96 - 8 * i, 128 - 4 * i] for i in range(len(counts))])


def objects_of(counts: tuple[int, ...], seed: int = 0) -> Targets:
    draw = torch.Generator().manual_seed(seed)
    corners = 40 * torch.rand(sum(counts), 2, generator=draw, dtype=torch.float64)
    sizes = 2 + 20 * torch.rand(sum(counts), 2, generator=draw, dtype=torch.float64)
    labels = torch.randint(0, K, (sum(counts),), generator=draw)
    return Targets(torch.cat((corners, corners + sizes), dim=1), labels, counts)


def noise_for(config: DenoisingConfig, counts: tuple[int, ...]) -> Noise:
    source = NoiseSource(config=config, seed=3, epoch=1)
    return pack([source.draw(10 + i, n) for i, n in enumerate(counts)])


def made(config: DenoisingConfig, counts: tuple[int, ...]):
    return denoise(config, objects_of(counts), noise_for(config, counts), sizes_of(counts), K)


def literally(config: DenoisingConfig, counts: tuple[int, ...]) -> list[dict]:
    """Every filled slot, one by one."""
    source, targets = NoiseSource(config=config, seed=3, epoch=1), objects_of(counts)
    kept = [config.kept(n) for n in counts]
    slots, first = [], 0
    for image, (boxes, labels) in enumerate(targets.per_image()):
        mine = source.draw(10 + image, counts[image])
        fullest = max(kept) if config.grouping == "batch" else kept[image]
        h, w = sizes_of(counts)[image].tolist()
        for repetition in range(config.groups_of(fullest) * config.copies):
            for place, thing in enumerate(mine.objects.tolist()):
                u = [float(x) for x in mine.numbers[repetition, place]]
                x1, y1, x2, y2 = (boxes[thing] / torch.tensor([w, h, w, h])).tolist()
                negative = config.kind == "contrastive" and repetition % 2 == 1
                if config.kind == "contrastive":
                    moved = []
                    for i, c in enumerate((x1, y1, x2, y2)):
                        half = ((x2 - x1) if i % 2 == 0 else (y2 - y1)) / 2
                        sign = -1 if u[6 + i] < 0.5 else 1
                        c += sign * (u[2 + i] + negative) * half * config.box_noise
                        moved.append(min(max(c, 0), 1))
                    a, b, c, d = moved
                    box = ((a + c) / 2, (b + d) / 2, c - a, d - b)
                else:
                    center = ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1)
                    reach = ((x2 - x1) / 2, (y2 - y1) / 2, x2 - x1, y2 - y1)
                    box = tuple(
                        min(max(c + (2 * v - 1) * r * config.box_noise, 0), 1)
                        for c, v, r in zip(center, u[2:6], reach, strict=True)
                    )
                drawn, label = int(np.float32(u[1]) * K), int(labels[thing])
                slots.append(
                    {
                        "image": image,
                        "slot": repetition * fullest + place,
                        "group": repetition // config.copies,
                        "object": None if negative else first + thing,
                        "label": drawn if u[0] < config.label_noise else label,
                        "box": box,
                    }
                )
        first += counts[image]
    return slots


@settings(max_examples=60)
@given(config=configs, counts=counts_of_images)
def test_queries_are_those_of_a_literal_reading(config, counts):
    (extra, truth), slots = made(config, counts), literally(config, counts)
    width = extra.labels.shape[1]
    assert int(extra.filled.sum()) == len(slots)
    found = dict(zip(truth.queries.tolist(), truth.objects.tolist(), strict=True))
    assert len(found) == len(truth.queries)
    for s in slots:
        at = s["image"], s["slot"]
        assert extra.filled[at]
        assert extra.labels[at] == s["label"]
        assert extra.groups[at] == s["group"]
        assert_close(extra.boxes[at], torch.tensor(s["box"], dtype=torch.float64), rtol=0, atol=1e-12)
        assert found.pop(s["image"] * width + s["slot"], None) == s["object"]
    assert not found
    empty = ~extra.filled
    assert (extra.boxes[empty] == 0.5).all()
    if config.grouping == "image":
        assert (extra.groups[empty] == -1).all()
        assert truth.counted.equal(extra.filled)
    else:
        assert (extra.groups >= 0).all()
        assert truth.counted.equal(extra.filled | (config.kind == "contrastive"))
    assert truth.dropped == sum(n - config.kept(n) for n in counts)


@settings(max_examples=60)
@given(config=configs, counts=counts_of_images, own=st.integers(1, 5))
def test_queries_see_their_group_and_the_detectors_own(config, counts, own):
    extra, _ = made(config, counts)
    hidden, width = hide_groups(extra.groups, own), extra.labels.shape[1]
    if not width:
        assert hidden is None
        return
    assert not hidden.all(-1).any()  # no row is hidden entirely
    for i, groups in enumerate(extra.groups.tolist()):
        for row in range(width + own):
            for column in range(width + own):
                seen = column >= width
                if row < width and column < width:
                    seen = groups[column] >= 0 and groups[row] == groups[column]
                assert hidden[i, row, column] == (not seen)


@settings(max_examples=60)
@given(config=configs, counts=counts_of_images)
def test_an_image_has_the_same_queries_in_any_batch(config, counts):
    config = replace(config, grouping="image")
    together, _ = made(config, counts)
    source, targets = NoiseSource(config=config, seed=3, epoch=1), objects_of(counts)
    for i, (boxes, labels) in enumerate(targets.per_image()):
        alone = Targets(boxes, labels, (counts[i],))
        noise = pack([source.draw(10 + i, counts[i])])
        extra, _ = denoise(config, alone, noise, sizes_of(counts)[i : i + 1], K)
        width = extra.labels.shape[1]
        for name in ("labels", "boxes", "groups", "filled"):
            assert getattr(extra, name)[0].equal(getattr(together, name)[i, :width]), name
        assert not together.filled[i, width:].any()


@settings(max_examples=60)
@given(config=configs, counts=counts_of_images)
def test_extra_queries_stay_within_their_number(config, counts):
    extra, truth = made(config, counts)
    assert extra.labels.shape[1] <= config.max_queries
    if config.groups is None:
        kept = max(config.kept(n) for n in counts)
        assert extra.labels.shape[1] <= max(config.queries, config.copies * kept)
    assert (truth.groups >= 1).all()


def test_the_papers_numbers_of_groups():
    """DINO's sheet: 1 object 200 queries, 7: 196, 42: 168, 51: 102, more than 100: two each."""
    for objects, queries in ((1, 200), (7, 196), (42, 168), (51, 102), (100, 200), (120, 240)):
        assert 2 * objects * DINO_DENOISING.groups_of(objects) == queries
    assert [DN_DETR_DENOISING.groups_of(n) for n in (1, 7, 93)] == [5, 5, 5]


def test_a_crowded_image_gets_fewer_groups_then_fewer_objects():
    config = replace(DN_DETR_DENOISING, max_queries=100)
    assert [config.groups_of(config.kept(n)) for n in (20, 30, 60, 200)] == [5, 3, 1, 1]
    extra, truth = made(config, (150, 4))
    assert (extra.filled.sum(1).tolist(), truth.dropped) == ([100, 20], 50)
    again, _ = made(config, (150, 4))
    assert again.boxes.equal(extra.boxes)
    kept = set(truth.objects.tolist())
    assert len(kept) == 104
    assert kept != {*range(100), *range(150, 154)}  # drawn, not the first ones


@settings(max_examples=30)
@given(counts=st.lists(st.integers(1, 6), min_size=1, max_size=4).map(tuple))
def test_each_negative_has_the_larger_noise_and_finds_nothing(counts):
    """Far from the border, where nothing is clamped."""
    targets = objects_of(counts)
    inside = targets.boxes_xyxy * 0 + torch.tensor([40.0, 30, 60, 42], dtype=torch.float64)
    targets = replace(targets, boxes_xyxy=inside)
    sizes = torch.tensor([[96, 128]] * len(counts))
    extra, truth = denoise(DINO_DENOISING, targets, noise_for(DINO_DENOISING, counts), sizes, K)
    wanted = inside[0] / torch.tensor([128, 96, 128, 96])
    half = (wanted[2:] - wanted[:2]) / 2
    low, high = (
        extra.boxes[..., :2] - extra.boxes[..., 2:] / 2,
        extra.boxes[..., :2] + extra.boxes[..., 2:] / 2,
    )
    moved = ((torch.cat((low, high), dim=-1) - wanted) / half.repeat(2)).abs()
    positive = torch.zeros(extra.filled.numel(), dtype=torch.bool)
    positive[truth.queries] = True
    positive = positive.view_as(extra.filled)
    negative = extra.filled & ~positive
    assert int(positive.sum()) == int(negative.sum())
    assert (moved[positive] <= 1 + 1e-9).all()
    assert (moved[negative] >= 1 - 1e-9).all()
    assert (moved[negative] <= 2 + 1e-9).all()
    assert truth.counted[negative].all()


@pytest.mark.parametrize(
    ("config", "mean", "low", "high"),
    [(DN_DETR_DENOISING, 0.60, 0.47, 0.75), (DINO_DENOISING, 0.385, 0.15, 0.61)],
    ids=["DN-DETR", "DINO"],
)
def test_noise_is_as_large_as_in_the_authors_training(config, mean, low, high):
    """IoU of positives with their objects far from the border; recorded of 200,000 draws."""
    count = 2000
    boxes = torch.tensor([[400.0, 300, 600, 420]], dtype=torch.float64).repeat(count, 1)
    targets, size = Targets(boxes, torch.arange(count) % K, (count,)), torch.tensor([[1000, 1000]])
    many = replace(config, groups=10, max_queries=10**6)
    noise = pack([NoiseSource(config=many, seed=0, epoch=0).draw(0, count)])
    extra, truth = denoise(many, targets, noise, size, K)
    center, wh = extra.boxes[0][truth.queries].split(2, dim=-1)
    corners = torch.cat((center - wh / 2, center + wh / 2), dim=-1) * 1000
    a, b = corners, boxes[truth.objects]
    inter = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0).prod(-1)
    overlap = inter / ((a[:, 2:] - a[:, :2]).prod(-1) + (b[:, 2:] - b[:, :2]).prod(-1) - inter)
    assert overlap.mean() == pytest.approx(mean, abs=0.01)
    assert overlap.quantile(0.05) == pytest.approx(low, abs=0.015)
    assert overlap.quantile(0.95) == pytest.approx(high, abs=0.015)
    flipped = (extra.labels[0][truth.queries] != targets.labels[truth.objects]).double().mean()
    assert flipped == pytest.approx(config.label_noise * (K - 1) / K, abs=0.01)


@settings(max_examples=25)
@given(
    counts=st.lists(st.integers(0, 5), min_size=1, max_size=3).map(tuple).filter(any),
    budget=st.integers(1, 30),
    seed=st.integers(0, 99),
)
def test_equals_the_generator_of_transformers_rt_detr(counts, budget, seed):
    """With the draws replaced; its slots of missing objects differ, and count for both."""
    config = DenoisingConfig(kind="contrastive", queries=2 * budget, grouping="batch")
    noise, targets = noise_for(config, counts), objects_of(counts, seed)
    (extra, truth), sizes = denoise(config, targets, noise, sizes_of(counts), K), sizes_of(counts)
    shape = extra.labels.shape
    numbers = torch.zeros(*shape, 10)
    first = [0, *np.cumsum([r * n for r, n in zip(noise.repetitions, counts, strict=True)])]
    for i, n in enumerate(counts):
        for slot in torch.nonzero(extra.filled[i])[:, 0].tolist():
            repetition, place = divmod(slot, max(counts))
            numbers[i, slot] = noise.numbers[first[i] + repetition * n + place]
    draws = iter(
        [
            numbers[..., 0],
            (numbers[..., 1] * K).int(),
            (numbers[..., 6:] >= 0.5).double(),
            numbers[..., 2:6].double(),
        ]
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "rand_like", lambda *a, **k: next(draws))
        patch.setattr(torch, "randint_like", lambda *a, **k: next(draws))
        theirs = [
            {"class_labels": labels, "boxes": xyxy_to_cxcywh(boxes) / size.flip(0).repeat(2)}
            for (boxes, labels), size in zip(targets.per_image(), sizes, strict=True)
        ]
        labels, boxes, mask, facts = modeling_rt_detr.get_contrastive_denoising_training_group(
            theirs, K, 3, lambda labels: labels, num_denoising_queries=budget
        )
    filled = extra.filled
    assert labels[filled].equal(extra.labels[filled].int())
    assert_close(boxes[filled].double(), inverse_sigmoid(extra.boxes, 1e-5)[filled], rtol=1e-4, atol=1e-4)
    assert hide_groups(extra.groups, 3).equal((mask < 0).expand(len(counts), -1, -1))
    assert truth.groups.tolist() == [facts["dn_num_group"]] * len(counts)
    positives = [q % shape[1] for q in truth.queries.tolist()]
    assert positives == torch.cat(facts["dn_positive_idx"]).tolist()


@pytest.mark.parametrize("attention", ["self", "conditional", "overlap", "overlap without bias"])
def test_hidden_queries_have_no_effect_in_any_attention(attention):
    torch.manual_seed(0)
    groups = torch.tensor([[0, 0, 1, 1], [0, 0, -1, -1]])
    hidden, x, p = hide_groups(groups, 2), torch.randn(2, 6, 16), torch.randn(2, 6, 16)
    corners = 40 * torch.rand(2, 6, 2)
    boxes = torch.cat((corners, corners + 30), dim=-1)
    layer, context = {
        "self": (SelfAttention(16, heads=2), (p, hidden)),
        "conditional": (ConditionalSelfAttention(16, heads=2), (p, hidden)),
        "overlap": (OverlapAttention(16, heads=2), (boxes, hidden)),
        "overlap without bias": (OverlapAttention(16, heads=2, biased=False), (boxes, hidden)),
    }[attention]
    before = layer(x, *context)
    moved = x.clone()
    moved[:, 2:4] += 1  # group 1 of the first image, and what nobody sees of the second
    after = layer(moved, *context)
    kept = [0, 1, 4, 5]
    assert_close(after[:, kept], before[:, kept], rtol=1e-6, atol=1e-6)
    moved = x.clone()
    moved[:, 0] += 1
    seen = layer(moved, *context)
    assert (seen[:, 1] - before[:, 1]).abs().max() > 1e-4
    assert_close(seen[:, 4:], before[:, 4:], rtol=1e-6, atol=1e-6)
    assert layer(x, *context).isfinite().all()


def test_a_batch_without_noise_is_refused_and_no_denoising_adds_nothing():
    empty = Batch(
        images=torch.zeros(1, 3, 8, 8, dtype=torch.uint8),
        sizes_hw=torch.tensor([[8, 8]]),
        original_hw=torch.tensor([[8, 8]]),
        image_ids=torch.tensor([1]),
        valid=torch.tensor([True]),
        targets=objects_of((0,)),
    )
    assert denoise_batch(DenoisingConfig(), empty, K) == (None, None)
    with pytest.raises(ValueError, match="read without noise"):
        denoise_batch(DINO_DENOISING, empty, K)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"groups": 0}, "--detector.denoising.groups must be at least 1, got 0"),
        ({"queries": 0}, "--detector.denoising.queries must be at least 1, got 0"),
        ({"kind": "contrastive", "max_queries": 1}, "--detector.denoising.max-queries must be at least 2"),
        ({"label_noise": 1.5}, "--detector.denoising.label-noise must be between 0 and 1, got 1.5"),
        ({"box_noise": -1.0}, "--detector.denoising.box-noise must be 0 or more, got -1.0"),
    ],
)
def test_settings_that_cannot_train_are_refused_by_their_flag(changes, message):
    with pytest.raises(ConfigError, match=message):
        DenoisingConfig(**changes)
