"""AdaMixer and Sparse R-CNN with denoising: what DN-DETR and DINO promise, for queries that read regions."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from qdet.backbones import SwinConfig
from qdet.data.denoising.config import DenoisingConfig
from qdet.data.denoising.draw import NoiseSource, pack
from qdet.detectors import AdaMixerConfig, DetectorConfig, SparseRCNNConfig
from qdet.errors import ConfigError
from qdet.layers.denoising.apply import denoise
from qdet.losses import DINO_LOSS
from qdet.types import ExtraQueries, PaddedSizes, Reconstructions, Targets
from tests.support.recordings import Features

K, N, STAGES = 4, 5, 2
CHANNELS, STRIDES = (8, 12, 16, 20), (4, 8, 16, 32)
SIZES = PaddedSizes(torch.tensor([[64, 48], [52, 64]]), (64, 64))
PLAIN = DenoisingConfig(kind="plain", groups=3)
CONTRASTIVE = DenoisingConfig(kind="contrastive", queries=12)


class MapsConfig(SwinConfig):
    """A backbone whose maps are given."""

    def build(self) -> Features:
        return Features(CHANNELS, STRIDES)


SMALL: dict[str, Any] = {"backbone": MapsConfig(), "queries": N, "stages": STAGES, "heads": 2, "ffn": 32}
DETECTORS: dict[str, DetectorConfig] = {
    "adamixer": AdaMixerConfig(
        **SMALL, width=32, feature_width=32, groups=2, points_in=4, points_out=4, start="grid"
    ),
    "adamixer without overlap": AdaMixerConfig(
        **SMALL, width=32, feature_width=32, groups=2, points_in=4, points_out=4, position="sine"
    ),
    "sparse_rcnn": SparseRCNNConfig(**SMALL, width=32, filters=4, roi_size=3, start="grid"),
}
EACH = pytest.mark.parametrize("config", DETECTORS.values(), ids=DETECTORS)
BOTH = pytest.mark.parametrize("noise", [PLAIN, CONTRASTIVE], ids=["plain", "contrastive"])


def built(config: DetectorConfig, noise: DenoisingConfig | None = PLAIN):
    """A detector in float64 whose heads hide nothing, in training."""
    torch.manual_seed(0)
    detector = replace(config, **({} if noise is None else {"denoising": noise})).build(K).double()
    draw = torch.Generator().manual_seed(2)
    for name, p in sorted(detector.named_parameters()):
        if not name.endswith("labels.weight"):  # so that both kinds have the same weights
            p.data = 0.3 * torch.randn(p.shape, generator=draw, dtype=torch.float64) / p.shape[-1] ** 0.5
    return detector.train()


def maps(images: int = 2) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    shapes = [(images, c, 64 // s, 64 // s) for c, s in zip(CHANNELS, STRIDES, strict=True)]
    return [torch.randn(shape, generator=draw, dtype=torch.float64) for shape in shapes]


def objects(*counts: int) -> Targets:
    draw = torch.Generator().manual_seed(0)
    corners = 24 * torch.rand(sum(counts), 2, generator=draw, dtype=torch.float64)
    sizes = 2 + 20 * torch.rand(sum(counts), 2, generator=draw, dtype=torch.float64)
    return Targets(
        torch.cat((corners, corners + sizes), dim=1),
        torch.randint(0, K, (sum(counts),), generator=draw),
        counts,
    )


def noised(config: DenoisingConfig, targets: Targets, first: int = 0):
    source = NoiseSource(config=config, seed=0, epoch=0)
    noise = pack([source.draw(first + i, n) for i, n in enumerate(targets.counts)])
    return denoise(config, targets, noise, SIZES.sizes_hw[first : first + len(targets.counts)], K)


def apart(stages):
    extra = [p for p in stages if isinstance(p, Reconstructions)]
    return extra, [p for p in stages if not isinstance(p, Reconstructions)]


def assert_equal(ours, theirs) -> None:
    for a, b in zip(ours, theirs, strict=True):
        assert_close(a.logits, b.logits, rtol=1e-12, atol=1e-12)
        assert_close(a.boxes_xyxy, b.boxes_xyxy, rtol=1e-12, atol=1e-10)


@EACH
@BOTH
def test_own_queries_are_the_same_with_and_without(config, noise):
    """And evaluation has no others."""
    plain, trained = built(config, None), built(config, noise)
    absent = plain.load_state_dict(trained.state_dict(), strict=False)
    assert (absent.missing_keys, absent.unexpected_keys) == ([], ["decoder.labels.weight"])
    extra, _ = noised(noise, objects(3, 1))
    with torch.no_grad():
        reconstructed, own = apart(trained.decode(maps(), SIZES, extra))
        assert_equal(own, plain.decode(maps(), SIZES))
        evaluated = trained.eval().decode(maps(), SIZES)
        assert_equal(evaluated, plain.eval().decode(maps(), SIZES))
    assert (len(reconstructed), len(own), len(evaluated)) == (STAGES, STAGES, STAGES)
    assert reconstructed[0].logits.shape[:2] == extra.labels.shape


@EACH
@BOTH
def test_empty_slots_and_other_images_change_nothing(config, noise):
    """An image's extra queries are those that it has alone in a pass, without slots to leave empty."""
    detector, targets = built(config, noise), objects(3, 1)
    extra, _ = noised(noise, targets)
    with torch.no_grad():
        together, _ = apart(detector.decode(maps(), SIZES, extra))
        for i, (boxes, labels) in enumerate(targets.per_image()):
            alone, _ = noised(noise, Targets(boxes, labels, (len(labels),)), i)
            sizes = replace(SIZES, sizes_hw=SIZES.sizes_hw[i : i + 1])
            here, _ = apart(detector.decode([m[i : i + 1] for m in maps()], sizes, alone))
            width = alone.labels.shape[1]
            assert alone.filled.all()
            for a, b in zip(together, here, strict=True):
                assert_close(a.logits[i : i + 1, :width], b.logits, rtol=1e-12, atol=1e-12)
                assert_close(a.boxes_xyxy[i : i + 1, :width], b.boxes_xyxy, rtol=1e-12, atol=1e-10)
    assert extra.filled.sum(1).tolist() == ([9, 3] if noise is PLAIN else [12, 12])


@EACH
def test_groups_do_not_see_each_other_but_their_own_label_and_box(config):
    detector = built(config)
    extra, _ = noised(PLAIN, objects(3, 1))

    def change(**what: torch.Tensor):
        with torch.no_grad():
            return apart(detector.decode(maps(), SIZES, replace(extra, **what)))[0][-1]

    before = change()
    moved = (extra.groups == 1) & extra.filled
    kept = ~moved & extra.filled
    relabelled = torch.where(moved, (extra.labels + 1) % K, extra.labels)
    shifted = torch.where(moved.unsqueeze(-1), extra.boxes * 0.9 + 0.02, extra.boxes)
    for after in (change(labels=relabelled), change(boxes=shifted)):
        assert_close(after.logits[kept], before.logits[kept], rtol=1e-12, atol=1e-12)
        differs = (after.logits - before.logits).abs().amax(-1)
        assert (differs[moved] > 1e-7).all()


def test_an_extra_query_starts_from_its_label_and_box():
    """AdaMixer's contents are normalized, Sparse R-CNN's are not; boxes are in pixels of their images."""
    extra = ExtraQueries(
        labels=torch.tensor([[2, 0], [1, 0]]),
        boxes=torch.tensor([[[0.5, 0.25, 0.2, -0.1], [0.5] * 4], [[0.4, 0.6, 0.3, 0.5], [0.2] * 4]]).double(),
        groups=torch.tensor([[0, -1], [0, 0]]),
        filled=torch.tensor([[True, False], [True, True]]),
    )
    for name in ("adamixer", "sparse_rcnn"):
        detector, seen = built(DETECTORS[name]), []
        detector.decoder.stages[0].register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args))
        detector.decode(maps(), SIZES, extra)
        content, boxes = seen[0][:2]
        vectors = detector.decoder.labels.weight
        if name == "adamixer":
            vectors = F.layer_norm(vectors, (32,))
            x, y, z, r = boxes.xyzr.unbind(-1)
            got = torch.stack((x, y, 2 ** (z - r / 2), 2 ** (z + r / 2)), dim=-1)
        else:
            got = torch.cat(((boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]), dim=-1)
        assert content[0, 0].equal(vectors[2])
        assert not content[0, 1].any()
        assert content[1, :2].equal(vectors[[1, 0]])
        floor = 64 * 1e-3 / (1 + 1e-3)
        wanted = torch.tensor([[24, 16, 9.6, floor], [24, 32, 24, 32]]).double()  # of 48 x 64 pixels
        assert_close(got[0, :2], wanted, rtol=1e-6, atol=1e-6)
        wanted = torch.tensor([[25.6, 31.2, 19.2, 26], [12.8, 10.4, 12.8, 10.4]]).double()  # of 64 x 52
        assert_close(got[1, :2], wanted, rtol=1e-6, atol=1e-6)


@EACH
@BOTH
@pytest.mark.parametrize("counts", [(3, 1), (2, 0), (0, 0), (120, 1)], ids=str)
def test_every_parameter_learns_also_without_objects(config, noise, counts):
    detector, targets = built(config, noise), objects(*counts)
    extra, truth = noised(noise, targets)
    stages = detector.decode(maps(), SIZES, extra)
    loss = DINO_LOSS.build(K)(stages, targets, SIZES.sizes_hw, normalizer=4, truth=truth)
    loss.total.backward()
    assert loss.total.isfinite()
    for name, p in detector.named_parameters():
        assert not p.requires_grad or (p.grad is not None and p.grad.isfinite().all()), name
    assert bool(detector.decoder.labels.weight.grad.any()) == bool(sum(counts))
    detector.zero_grad()
    detector.decode(maps(), SIZES)[-1].logits.sum().backward()
    assert not detector.decoder.labels.weight.grad.any()


def test_independent_classes_are_needed():
    with pytest.raises(
        ConfigError, match=r"--detector\.denoising\.kind plain needs --detector\.scores sigmoid"
    ):
        SparseRCNNConfig(scores="softmax", denoising=PLAIN)
