"""Branches of learned queries: each is a detector of its own, evaluation has none, the loss adds them up."""

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from qdet.backbones import SwinConfig
from qdet.data.denoising.draw import NoiseSource, pack
from qdet.detectors import (
    DINO_DENOISING,
    DN_DETR_DENOISING,
    AnchorDETRConfig,
    ConditionalDETRConfig,
    ConvSMCAConfig,
    DABDETRConfig,
    DeformableDETRConfig,
    DetectorConfig,
    DETRConfig,
    DINOConfig,
    EfficientDETRConfig,
    MultiScaleSMCAConfig,
    SMCAConfig,
)
from qdet.errors import ConfigError
from qdet.layers.attention.visibility import hide_groups
from qdet.layers.denoising.apply import denoise
from qdet.layers.one_to_many.config import OneToManyConfig
from qdet.losses import DETR_LOSS, FOCAL_DETR_LOSS, SetLossConfig
from qdet.types import Branches, PaddedSizes, Predictions, Proposals, Reconstructions, Targets
from tests.support.recordings import Features

K, N, T = 4, 5, 9
GROUPS = OneToManyConfig(kind="groups", groups=3)
HYBRID = OneToManyConfig(kind="hybrid", queries=T, repeats=3, weight=0.7)
CHANNELS, STRIDES = (8, 12, 16), (4, 8, 16)
SIZES = PaddedSizes(torch.tensor([[64, 48], [52, 64]]), (64, 64))


class MapsConfig(SwinConfig):
    """A backbone whose maps are given."""

    def build(self) -> Features:
        return Features(CHANNELS, STRIDES)


SMALL: dict[str, Any] = {
    "backbone": MapsConfig(),
    "width": 32,
    "heads": 2,
    "decoder_layers": 2,
    "ffn": 32,
    "dropout": 0.0,
}
ONE = SMALL | {"encoder_layers": 1}
TWO_STAGE = {"refine": True, "two_stage": True}
LEARNED: dict[str, DetectorConfig] = {
    "detr": DETRConfig(**ONE, queries=N, scores="sigmoid"),
    "conditional": ConditionalDETRConfig(**ONE, queries=N),
    "dab": DABDETRConfig(**ONE, anchors=N),
    "dab patterns": DABDETRConfig(**ONE, anchors=N, patterns=2),
    "dab centres": DABDETRConfig(**ONE, anchors=N, anchor_dims=2),
    "anchor": AnchorDETRConfig(**ONE, points=N, patterns=2),
    "anchor plain": AnchorDETRConfig(**ONE, points=N, patterns=1, attention="plain"),
    "deformable": DeformableDETRConfig(**ONE, queries=N),
    "deformable refined": DeformableDETRConfig(**ONE, queries=N, refine=True, look_forward="twice"),
    "smca": SMCAConfig(**ONE, queries=N),
    "smca scales": MultiScaleSMCAConfig(**SMALL, queries=N, encoder=("multi",)),
    "smca conv": ConvSMCAConfig(**ONE, queries=N),
}
"""Detectors whose queries are learned."""
TOKENS: dict[str, DetectorConfig] = {
    "two stages": DeformableDETRConfig(**ONE, **TWO_STAGE, queries=N),
    "mixed selection": DeformableDETRConfig(
        **ONE, **TWO_STAGE, queries=N, content="learned", look_forward="twice"
    ),
    "dino": DINOConfig(**ONE, queries=N, denoising=replace(DINO_DENOISING, kind="none")),
    "dino tokens": DINOConfig(
        **ONE, queries=N, content="token", denoising=replace(DINO_DENOISING, kind="none")
    ),
}
"""Detectors whose queries are tokens of the image."""
DEFAULT = ("conditional-groups", "dab patterns-groups", "mixed selection-hybrid")
"""Cases of every run of the tests; the others are slow."""


def case(name: str, *values: Any):
    """A case of a parametrized test."""
    return pytest.param(*values, id=name, marks=() if name in DEFAULT else pytest.mark.slow)


EACH = pytest.mark.parametrize(
    ("config", "many"),
    [
        *(case(f"{name}-groups", config, GROUPS) for name, config in LEARNED.items()),
        *(case(f"{name}-hybrid", config, HYBRID) for name, config in (LEARNED | TOKENS).items()),
    ],
)
OF_GROUPS = pytest.mark.parametrize("config", [case(f"{n}-groups", c) for n, c in LEARNED.items()])
OF_LEARNED = pytest.mark.parametrize("config", [case(f"{n}-hybrid", c) for n, c in LEARNED.items()])
OF_TOKENS = pytest.mark.parametrize("config", [case(f"{n}-hybrid", c) for n, c in TOKENS.items()])
LOSS = replace(FOCAL_DETR_LOSS, classification=1.5, l1=4.0)


def built(config: DetectorConfig, many: OneToManyConfig | None = None, seed: int = 0):
    """A detector in float64 whose heads hide nothing, in training."""
    torch.manual_seed(seed)
    detector = replace(config, **({} if many is None else {"one_to_many": many})).build(K).double()
    for p in detector.parameters():
        p.data += 0.05 * torch.randn_like(p)
    return detector.train()


def both(config: DetectorConfig, many: OneToManyConfig):
    """The detector with branches, and without them but with the same weights."""
    plain, branched = built(config, seed=1), built(config, many)
    absent = plain.load_state_dict(branched.state_dict(), strict=False)
    assert not absent.missing_keys
    assert all(key.endswith(".extra") for key in absent.unexpected_keys)
    return plain, branched


def maps(size: int = 64) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    shapes = [(2, c, -(-size // s), -(-size // s)) for c, s in zip(CHANNELS, STRIDES, strict=True)]
    return [torch.randn(shape, generator=draw, dtype=torch.float64) for shape in shapes]


def objects(*counts: int, seed: int = 0) -> Targets:
    draw = torch.Generator().manual_seed(seed)
    corners = 24 * torch.rand(sum(counts), 2, generator=draw, dtype=torch.float64)
    sizes = 2 + 20 * torch.rand(sum(counts), 2, generator=draw, dtype=torch.float64)
    labels = torch.randint(0, K, (sum(counts),), generator=draw)
    return Targets(torch.cat((corners, corners + sizes), dim=1), labels, counts)


def apart(predictions) -> tuple[list[Branches], list[Predictions]]:
    """The branches of every stage, and what the detector keeps."""
    branches = [p for p in predictions if isinstance(p, Branches)]
    return branches, [p for p in predictions if not isinstance(p, Branches)]


def assert_equal(ours, theirs, tolerance: float = 1e-12) -> None:
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert_close(a.logits, b.logits, rtol=tolerance, atol=tolerance)
        assert_close(a.boxes_xyxy, b.boxes_xyxy, rtol=tolerance, atol=100 * tolerance)


@EACH
def test_the_detectors_own_queries_know_nothing_of_the_branches(config, many):
    """In training and in evaluation, where there are none."""
    plain, branched = both(config, many)
    with torch.no_grad():
        branches, kept = apart(branched.decode(maps(), SIZES))
        assert_equal(kept, plain.decode(maps(), SIZES))
        evaluated = branched.eval().decode(maps(), SIZES)
        assert_equal(evaluated, plain.eval().decode(maps(), SIZES))
    assert len(branches) == config.decoder_layers
    assert not apart(evaluated)[0]


@OF_GROUPS
def test_every_group_is_a_detector_of_its_own(config):
    """That shares all weights but those that its queries start from."""
    plain, branched = both(config, GROUPS)
    starts = {name: p for name, p in branched.named_parameters() if name.endswith(".extra")}
    assert len(starts) == 1
    ((name, extra),) = starts.items()
    with torch.no_grad():
        branches, _ = apart(branched.decode(maps(), SIZES))
        for i, start in enumerate(extra.chunk(2)):
            plain.get_parameter(re.sub(r"extra$", "weight", name)).copy_(start)
            alone = plain.decode(maps(), SIZES)
            found = [
                Predictions(p.logits.chunk(2, dim=1)[i], p.boxes_xyxy.chunk(2, dim=1)[i]) for p in branches
            ]
            assert_equal(found, alone)


@OF_LEARNED
def test_the_hybrid_branch_is_a_detector_of_its_own(config):
    """One with as many queries as the branch."""
    _, branched = both(config, HYBRID)
    size = next({name: T} for name in ("points", "anchors", "queries") if name in vars(config))
    state = {name.replace(".extra", ".weight"): p for name, p in branched.state_dict().items()}
    alone = built(replace(config, **size))
    alone.load_state_dict(state)
    with torch.no_grad():
        branches, _ = apart(branched.decode(maps(), SIZES))
        assert_equal(branches, alone.decode(maps(), SIZES))


@OF_TOKENS
def test_the_hybrid_branch_starts_from_the_next_best_tokens(config):
    """As if a detector with as many queries had these tokens alone, which are put into its first layer."""
    _, branched = both(config, HYBRID)
    wide = built(replace(config, queries=N + T))
    state = dict(branched.state_dict())
    for name in [name for name in state if name.endswith(".extra")]:
        own = name.replace(".extra", ".weight")
        state[own] = torch.cat((state[own], state.pop(name)))
    wide.load_state_dict(state)
    starts = 2 if isinstance(config, DINOConfig) else 3  # what the queries start from, among what is returned
    part = wide.selection if isinstance(config, DINOConfig) else wide.start
    part.register_forward_hook(lambda _, __, out: (*(t[:, N:] for t in out[:starts]), *out[starts:]))
    with torch.no_grad():
        branches, _ = apart(branched.decode(maps(), SIZES))
        decoded = [p for p in wide.decode(maps(), SIZES) if not isinstance(p, Proposals)]
    assert {p.logits.shape[1] for p in branches} == {T}
    assert_equal(branches, decoded)


def whole(total: SetLossConfig, predictions, targets: Targets, normalizer: float = 3.0):
    return total.build(K)(predictions, targets, SIZES.sizes_hw, normalizer=normalizer)


counts_of_images = st.tuples(st.integers(0, 4), st.integers(0, 4))


def drawn(count: int, queries: int, classes: int = K) -> list[Predictions]:
    corners = 30 * torch.rand(count, 2, queries, 2, dtype=torch.float64)
    boxes = torch.cat((corners, corners + 2 + 20 * torch.rand_like(corners)), dim=-1)
    return [Predictions(torch.randn(2, queries, classes, dtype=torch.float64), b) for b in boxes]


@settings(max_examples=10)
@given(counts=counts_of_images, seed=st.integers(0, 99), branches=st.integers(1, 3), softmax=st.booleans())
def test_the_loss_of_groups_is_the_mean_of_their_losses(counts, seed, branches, softmax):
    torch.manual_seed(seed)
    config = DETR_LOSS if softmax else LOSS
    targets, sets = objects(*counts), [drawn(2, N, K + softmax) for _ in range(branches + 1)]
    mean = 1 / len(sets)
    further = [
        Branches(
            torch.cat([s[i].logits for s in sets[1:]], dim=1),
            torch.cat([s[i].boxes_xyxy for s in sets[1:]], dim=1),
            count=branches,
            weight=mean,
            own_weight=mean,
        )
        for i in range(2)
    ]
    got, each = whole(config, [*further, *sets[0]], targets), [whole(config, s, targets) for s in sets]
    assert got.total.item() == pytest.approx(sum(e.total.item() for e in each) * mean, rel=1e-10)
    for name in ("classification", "l1", "giou"):
        for stage in ("stage0", "stage1"):
            alone = [e.terms[f"{stage}/{name}"].item() * mean for e in each]
            assert got.terms[f"{stage}/{name}"].item() == pytest.approx(alone[0], rel=1e-10, abs=1e-12)
            summed = got.terms[f"one_to_many/{stage}/{name}"].item()
            assert summed == pytest.approx(sum(alone[1:]), rel=1e-10, abs=1e-12)
    rest = sum(e.total.item() for e in each[1:]) * mean
    assert got.terms["one_to_many"].item() == pytest.approx(rest, rel=1e-10)
    assert got.terms["pos_acc"] == each[0].terms["pos_acc"]


@settings(max_examples=10)
@given(counts=counts_of_images, seed=st.integers(0, 99), repeats=st.integers(1, 4))
def test_the_loss_of_the_hybrid_branch_is_that_of_repeated_objects(counts, seed, repeats):
    torch.manual_seed(seed)
    targets, own, many = objects(*counts), drawn(2, N), drawn(2, T)
    further = [Branches(p.logits, p.boxes_xyxy, repeats=repeats, weight=0.7) for p in many]
    again = [(boxes.repeat(repeats, 1), labels.repeat(repeats)) for boxes, labels in targets.per_image()]
    repeated = Targets(
        torch.cat([boxes for boxes, _ in again]),
        torch.cat([labels for _, labels in again]),
        tuple(n * repeats for n in counts),
    )
    one, more = whole(LOSS, own, targets), whole(LOSS, many, repeated, normalizer=3.0 * repeats)
    got = whole(LOSS, [*further, *own], targets)
    assert got.total.item() == pytest.approx(one.total.item() + 0.7 * more.total.item(), rel=1e-10)
    assert {name: v for name, v in got.terms.items() if not name.startswith("one_to_many")} == one.terms


def test_own_proposals_have_their_whole_weight():
    torch.manual_seed(0)
    (p,), targets = drawn(1, N), objects(2, 1)
    own, proposals = drawn(2, N), Proposals(p.logits, p.boxes_xyxy)
    further = [Branches(q.logits, q.boxes_xyxy, weight=0.5, own_weight=0.5) for q in drawn(2, N)]
    with_branches = whole(LOSS, [proposals, *further, *own], targets).terms
    without = whole(LOSS, [proposals, *own], targets).terms
    for name in ("classification", "l1", "giou"):
        assert with_branches[f"proposals/{name}"] == without[f"proposals/{name}"]
        assert with_branches[f"stage1/{name}"] == 0.5 * without[f"stage1/{name}"]


@EACH
def test_gradients_of_a_batch_are_those_of_its_images_one_by_one(config, many):
    """So that neither ranks nor accumulation matter; and all parameters learn, also without an object."""
    detector, criterion, targets = built(config, many), LOSS.build(K), objects(3, 1)
    together = gradients(detector, criterion, [(maps(), SIZES, targets)])
    parts = [
        (
            [m[i : i + 1] for m in maps()],
            replace(SIZES, sizes_hw=SIZES.sizes_hw[i : i + 1]),
            Targets(boxes, labels, (len(labels),)),
        )
        for i, (boxes, labels) in enumerate(targets.per_image())
    ]
    separate = gradients(detector, criterion, parts)
    for name, gradient in together.items():
        assert_close(separate[name], gradient, rtol=1e-8, atol=1e-10, msg=name)
    for name in (n for n in together if n.endswith(".extra")):
        assert together[name].flatten(1).any(1).all(), name  # every query of every branch
    nothing = gradients(detector, criterion, [(maps(), SIZES, objects(0, 0))])
    assert nothing.keys() == together.keys()


def gradients(detector, criterion, batches) -> dict[str, torch.Tensor]:
    detector.zero_grad()
    for features, sizes, targets in batches:
        stages = detector.decode(features, sizes)
        criterion(stages, targets, sizes.sizes_hw, normalizer=4).total.backward()
    found = {name: p.grad.clone() for name, p in detector.named_parameters() if p.grad is not None}
    assert found.keys() == {name for name, p in detector.named_parameters() if p.requires_grad}
    return found


@OF_TOKENS
def test_fewer_tokens_than_queries(config):
    """The branch has what the detector leaves, and the terms of the loss stay the same."""
    criterion, targets = LOSS.build(K), objects(2, 1)
    sizes, terms = PaddedSizes(torch.tensor([[16, 16], [16, 16]]), (16, 16)), set()
    for queries in (1, N, 10**4):
        detector = built(replace(config, queries=queries), replace(HYBRID, queries=10**4))
        stages = detector.decode(maps(16), sizes)
        loss = criterion(stages, targets, sizes.sizes_hw, normalizer=3)
        assert loss.total.isfinite()
        loss.total.backward()
        terms.add(tuple(loss.terms))
    assert len(terms) == 1
    assert {p.logits.shape[1] for p in apart(stages)[0]} == {0}


@settings(max_examples=25)
@given(
    groups=st.lists(st.integers(-1, 2), max_size=5),
    own=st.integers(1, 4),
    branches=st.lists(st.integers(0, 3), max_size=3),
)
def test_who_sees_whom(groups, own, branches):
    """Read query by query: noised ones see their group and the detector's own, all others their own kind."""
    kinds = [("noised", g) for g in groups] + [("own", 0)] * own
    kinds += [("branch", i) for i, size in enumerate(branches) for _ in range(size)]
    hidden = hide_groups(torch.tensor([groups], dtype=torch.long), own, branches)
    if hidden is None:
        assert not groups
        assert not any(branches)
        return
    for r, row in enumerate(kinds):
        for c, column in enumerate(kinds):
            sees = row == column or (row[0] == "noised" and column[0] == "own")
            assert hidden[0, r, c] == (not sees or column == ("noised", -1)), (row, column)
    assert not hidden.all(-1).any()


@pytest.mark.parametrize("name", ["dn_detr", "dino"])
def test_denoising_and_branches_leave_each_other_alone(name):
    if name == "dino":
        config, many = replace(TOKENS["dino"], denoising=replace(DINO_DENOISING, queries=12)), HYBRID
    else:
        config, many = replace(LEARNED["dab"], denoising=DN_DETR_DENOISING), GROUPS
    plain, branched = both(config, many)
    targets, source = objects(3, 1), NoiseSource(config=config.denoising, seed=0, epoch=0)
    noise = pack([source.draw(i, n) for i, n in enumerate(targets.counts)])
    extra, truth = denoise(config.denoising, targets, noise, SIZES.sizes_hw, K)
    with torch.no_grad():
        branches, kept = apart(branched.decode(maps(), SIZES, extra))
        assert_equal(kept, plain.decode(maps(), SIZES, extra))
        assert_equal(branches, apart(branched.decode(maps(), SIZES))[0])
    assert sum(isinstance(p, Reconstructions) for p in kept) == config.decoder_layers
    loss = LOSS.build(K)([*branches, *kept], targets, SIZES.sizes_hw, normalizer=4, truth=truth)
    assert {"reconstruction", "one_to_many"} <= loss.terms.keys()


@EACH
def test_what_training_adds_is_counted(config, many):
    with torch.device("meta"):
        plain, branched = config.build(K), replace(config, one_to_many=many).build(K)
    before, after = (sum(p.numel() for p in d.parameters()) for d in (plain, branched))
    further = 2 * N if many is GROUPS else T
    width = {"dab": 4, "dab patterns": 4, "dab centres": 2, "anchor": 2, "anchor plain": 2}
    width |= {"deformable": 64, "deformable refined": 64, "two stages": 0, "dino tokens": 0}
    name = next(name for name, c in (LEARNED | TOKENS).items() if c is config)
    assert after - before == further * width.get(name, 32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: OneToManyConfig(groups=0), "--detector.one-to-many.groups must be at least 1, got 0"),
        (lambda: OneToManyConfig(queries=0), "--detector.one-to-many.queries must be at least 1, got 0"),
        (lambda: OneToManyConfig(repeats=0), "--detector.one-to-many.repeats must be at least 1, got 0"),
        (lambda: OneToManyConfig(weight=-1.0), "--detector.one-to-many.weight must be 0 or more, got -1.0"),
        (lambda: DETRConfig(one_to_many=HYBRID), "hybrid needs --detector.scores sigmoid"),
        (lambda: DINOConfig(one_to_many=GROUPS), "give hybrid or none"),
        (lambda: DeformableDETRConfig(**TWO_STAGE, one_to_many=GROUPS), "give hybrid or none"),
        (lambda: AnchorDETRConfig(points=4, anchors="grid", one_to_many=GROUPS), "--detector.anchors grid"),
        (lambda: EfficientDETRConfig(one_to_many=HYBRID), "must be none"),
        (lambda: DeformableDETRConfig(look_forward="twice"), "twice needs --detector.refine"),
        (lambda: DeformableDETRConfig(content="learned"), "--detector.content is for --detector.two-stage"),
    ],
)
def test_settings_that_cannot_train_are_refused_by_their_flag(change, message):
    with pytest.raises(ConfigError, match=message):
        change()
