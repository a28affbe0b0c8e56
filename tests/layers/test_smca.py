"""What SMCA's detectors are made of: tokens of scales, encoders, decoder, and how all of them start."""

import math
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from qdet.detectors import ConvSMCAConfig, MultiScaleSMCAConfig, SMCAConfig
from qdet.detectors.smca.multi_scale import IntraMultiEncoder
from qdet.detectors.smca.scale_tokens import ScaleNeck
from qdet.errors import ConfigError
from qdet.layers.padding import padding_mask, resample_mask
from qdet.layers.position import sine_map
from qdet.types import PaddedSizes

SIZES = PaddedSizes(torch.tensor([[96, 128], [70, 90]]), (96, 128))
CONFIGS = (SMCAConfig(), MultiScaleSMCAConfig(), ConvSMCAConfig())


@pytest.fixture
def features():
    return [torch.randn(2, c, 96 // s, 128 // s) for c, s in ((8, 16), (12, 32))]


def test_tokens_are_the_cells_of_all_maps(features):
    neck = ScaleNeck((8, 12), (16, 32), 8)
    tokens = neck(features, SIZES)
    assert tokens.shapes_hw == ((6, 8), (3, 4), (2, 2))
    assert neck.strides == (16, 32, 64)
    parts = zip(*(tokens.split(t) for t in (tokens.x, tokens.position, tokens.mask)), strict=True)
    for j, (x, position, mask) in enumerate(parts):
        h, w = tokens.shapes_hw[j]
        conv = neck.coarser if j == 2 else neck.projections[j]
        assert_close(x, conv(features[min(j, 1)]).flatten(2).mT)
        if j < 2:
            assert mask.equal(padding_mask(SIZES, h, w).flatten(1))
        assert_close(position, sine_map(mask.unflatten(1, (h, w)), 8).flatten(1, 2) + neck.scale.weight[j])


def test_a_coarser_mask_takes_the_nearest_cell():
    mask = torch.rand(3, 5, 7) < 0.5
    for height, width in ((3, 4), (2, 2), (5, 7)):
        found = resample_mask(mask, height, width)
        for y in range(height):
            for x in range(width):
                assert found[:, y, x].equal(mask[:, y * 5 // height, x * 7 // width])


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: type(c).__name__)
def test_starts_as_the_authors_do(config):
    detector = config.demo().build(6)
    assert_close(detector.class_head.bias, torch.full((6,), -math.log(99)))
    assert detector.box_head.layers[-1].weight.std() > 0
    for layer in detector.decoder.layers:
        assert not layer.prior.sharpness.weight.any()
        assert (layer.prior.sharpness.bias == 1).all()
    xavier = {n: p for part in (detector.encoder, detector.decoder) for n, p in part.named_parameters()}
    for name, p in xavier.items():
        if p.dim() > 1 and not name.endswith(("position.weight", "sharpness.weight")):
            field = p[0, 0].numel()
            assert p.abs().max() <= math.sqrt(6 / ((p.shape[0] + p.shape[1]) * field)), name
    assert 0.9 < detector.decoder.position.weight.std() < 1.1


@pytest.mark.parametrize(("kinds", "mixed"), [(("intra", "intra"), False), (("intra", "multi"), True)])
def test_scales_see_each_other_in_multi_layers_alone(features, kinds, mixed):
    encoder = IntraMultiEncoder(MultiScaleSMCAConfig(encoder=kinds, width=8, heads=2, ffn=16), 3).eval()
    whole = PaddedSizes(torch.tensor([[96, 128], [96, 128]]), (96, 128))
    tokens = ScaleNeck((8, 12), (16, 32), 8)(features, whole)
    other = tokens.x.clone()
    other[:, : tokens.lengths[0]] += torch.randn(8)
    moved = (encoder(tokens).x - encoder(replace(tokens, x=other)).x).abs().amax(-1)
    finest, *coarser = tokens.split(moved)
    assert (finest > 0).all()
    assert all((scale > 0).all() == mixed and (scale > 0).any() == mixed for scale in coarser)


@torch.no_grad()
def test_scales_with_weights_of_their_own_start_from_shared_ones(features):
    """With equal weights they encode alike; moving those of one scale moves that scale alone."""
    config = MultiScaleSMCAConfig(encoder=("intra", "intra"), width=8, heads=2, ffn=16)
    shared, own = (
        IntraMultiEncoder(config, 3).eval(),
        IntraMultiEncoder(replace(config, shared_scales=False), 3),
    )
    own.eval()
    for layer, copies in zip(shared.layers, own.layers, strict=True):
        for one in copies:
            one.load_state_dict(layer.state_dict())
    tokens = ScaleNeck((8, 12), (16, 32), 8)(features, SIZES)
    assert_close(own(tokens).x, shared(tokens).x)
    own.layers[0][1].ffn.update.contract.bias += torch.randn(8)
    moved = [(a != b).any() for a, b in zip(*(tokens.split(e(tokens).x) for e in (own, shared)), strict=True)]
    assert moved == [False, True, False]


@torch.no_grad()
def test_without_a_selection_all_scales_count_alike():
    """As where a selection is there and decides nothing, and with as many parameters fewer."""
    config = MultiScaleSMCAConfig().demo()
    alike, selecting = (replace(config, scale_selection=on).build(6).eval() for on in (False, True))
    left = selecting.load_state_dict(alike.state_dict(), strict=False)
    names = [f"decoder.layers.{i}.selection.{part}" for i in range(3) for part in ("weight", "bias")]
    assert (left.missing_keys, left.unexpected_keys) == (names, [])
    for layer in selecting.decoder.layers:
        layer.selection.weight.zero_()
        layer.selection.bias.zero_()
    features = [
        torch.randn(2, c, 96 // s, 128 // s)
        for c, s in zip(alike.backbone.channels[-2:], (16, 32), strict=True)
    ]
    for one, other in zip(alike.decode(features, SIZES), selecting.decode(features, SIZES), strict=True):
        assert_close(one.logits, other.logits)
        assert_close(one.boxes_xyxy, other.boxes_xyxy)


def test_the_first_centre_guides_every_layer():
    """Boxes of the last layer send gradients to the head that reads the first layer's queries."""
    detector = SMCAConfig().demo().build(6)
    features = [torch.randn(1, c, 4, 4) for c in detector.backbone.channels]
    sizes = PaddedSizes(torch.tensor([[128, 128]]), (128, 128))
    detector.decode(features, sizes)[-1].logits.sum().backward()
    assert all(p.grad.any() for p in detector.decoder.center_head.parameters())


def test_a_kernel_without_a_middle_is_refused():
    with pytest.raises(ConfigError, match=r"--detector\.kernel must be odd, got 4"):
        ConvSMCAConfig(kernel=4)
