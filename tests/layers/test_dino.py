"""DINO's own parts: its start, its edges, its cost, its precision; its decoder beside Grounding DINO's."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import GroundingDinoConfig
from transformers.models.grounding_dino.modeling_grounding_dino import GroundingDinoDecoder

from qdet.backbones import SwinConfig
from qdet.data.denoising.config import DenoisingConfig
from qdet.data.denoising.draw import NoiseSource, pack
from qdet.detectors import DINO, DINOConfig
from qdet.detectors.complexity import count_macs
from qdet.detectors.dino.decoder import Decoder
from qdet.errors import ConfigError
from qdet.layers.attention.visibility import hide_groups
from qdet.layers.denoising.apply import denoise
from qdet.layers.heads import DetectionHead
from qdet.layers.token_levels import token_levels
from qdet.losses import DINO_LOSS
from qdet.types import PaddedSizes, Proposals, Reconstructions, Targets
from tests.support.recordings import Features

SIZES = PaddedSizes(torch.tensor([[64, 96], [48, 64]]), (64, 96))
CHANNELS = (16, 24, 32)
NOISE = DenoisingConfig(kind="contrastive", queries=8)


def small(classes: int = 3, **settings: Any) -> DINO:
    config = DINOConfig(
        **{
            "width": 32,
            "heads": 2,
            "encoder_layers": 1,
            "decoder_layers": 3,
            "ffn": 48,
            "queries": 9,
            "denoising": NOISE,
        }
        | settings
    )
    torch.manual_seed(0)
    return DINO(config, Features(CHANNELS, (8, 16, 32)), classes)


def maps(images: int = 2) -> list[torch.Tensor]:
    torch.manual_seed(5)
    return [torch.randn(images, c, 64 // s, 96 // s) for c, s in zip(CHANNELS, (8, 16, 32), strict=True)]


def shaken(detector: DINO) -> DINO:
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in detector.parameters():
            p += 0.05 * torch.randn(p.shape, generator=generator)
    return detector


def objects(*counts: int, classes: int = 3) -> Targets:
    torch.manual_seed(1)
    corners = 30 * torch.rand(sum(counts), 2)
    boxes = torch.cat((corners, corners + 4 + 14 * torch.rand(sum(counts), 2)), dim=1)
    return Targets(boxes, torch.randint(0, classes, (sum(counts),)), counts)


def denoised(targets: Targets, classes: int = 3, config: DenoisingConfig = NOISE):
    source = NoiseSource(config=config, seed=0, epoch=0)
    noise = pack([source.draw(i, n) for i, n in enumerate(targets.counts)])
    return denoise(config, targets, noise, SIZES.sizes_hw, classes)


def total(detector: DINO, targets: Targets, classes: int = 3) -> torch.Tensor:
    extra, truth = denoised(targets, classes, detector.denoising)
    stages = detector.train().decode(maps(), SIZES, extra)
    return DINO_LOSS.build(classes)(stages, targets, SIZES.sizes_hw, normalizer=5, truth=truth).total


@pytest.mark.parametrize(
    ("counts", "settings", "classes"),
    [
        ((3, 2), {"queries": 10_000}, 3),
        ((2, 1), {}, 1),
        ((0, 0), {}, 3),
        ((120, 1), {}, 3),
        ((3, 0), {"levels": 2}, 3),
        ((3, 0), {"content": "token", "look_forward": "once", "shared_heads": False}, 3),
        ((3, 1), {"denoising": replace(NOISE, kind="plain")}, 3),
    ],
    ids=["fewer tokens than queries", "one class", "no objects", "crowded", "2 levels", "ablated", "plain"],
)
def test_trains_at_the_edges(counts, settings, classes):
    detector = shaken(small(classes, **settings))
    loss = total(detector, objects(*counts, classes=classes), classes)
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in detector.parameters())
    if sum(counts):
        assert detector.labels.weight.grad.any()


def test_fewer_tokens_than_queries_make_fewer_queries():
    detector = small(queries=10_000).eval()
    with torch.no_grad():
        first, *stages = detector.decode(maps(), SIZES)
    tokens = sum(m.shape[-1] * m.shape[-2] for m in maps()) + 1 * 2  # and the coarser level
    assert first.logits.shape[1] == stages[-1].logits.shape[1] == tokens


def test_stages_come_after_proposals_and_reconstructions():
    extra, _ = denoised(objects(3, 1))
    stages = small().train().decode(maps(), SIZES, extra)
    kinds = [type(p).__name__ for p in stages]
    assert kinds == ["Proposals", *["Reconstructions"] * 3, *["Predictions"] * 3]
    assert stages[1].logits.shape[:2] == extra.labels.shape
    assert not [p for p in small().eval().decode(maps(), SIZES) if isinstance(p, Reconstructions)]


def test_starts_as_the_authors_do():
    torch.manual_seed(0)
    detector = DINO(DINOConfig(), Features((512, 1024, 2048), (8, 16, 32)), 91)
    content = detector.selection.content.weight.detach()
    assert content.abs().max() <= (6 / (900 + 256)) ** 0.5 + 1e-6  # Xavier's bound
    assert content.std() == pytest.approx(0.0720 / 3**0.5, rel=0.02)
    assert detector.labels.weight.detach().std() == pytest.approx(1, rel=0.02)
    assert len(detector.decoder.heads) == 1
    head, tokens = detector.decoder.heads[0], detector.selection.head
    assert head.class_head.weight.equal(tokens.class_head.weight)
    assert head.class_head.weight is not tokens.class_head.weight
    assert head.class_head.bias.detach().unique().item() == pytest.approx(-4.59512, abs=1e-5)
    assert not head.box_head.layers[-1].weight.any()
    assert not head.box_head.layers[-1].bias.any()


def test_looking_forward_twice_reaches_one_layer_back_and_not_further():
    """The box loss of the last layer alone, with a head of its own for each layer."""
    for look, reached in (("twice", [False, True, True]), ("once", [False, False, True])):
        detector = shaken(small(shared_heads=False, look_forward=look))
        detector.decode(maps(), SIZES)[-1].boxes_xyxy.sum().backward()
        heads = [head.box_head.layers[0].weight.grad for head in detector.decoder.heads]
        assert [g is not None and bool(g.any()) for g in heads] == reached, look


def test_queries_send_no_gradient_to_their_tokens():
    for content in ("learned", "token"):
        detector = shaken(small(content=content))
        detector.decode(maps(), SIZES)[-1].boxes_xyxy.sum().backward()
        assert detector.selection.projection.weight.grad is None
        assert all(p.grad is None for p in detector.selection.head.parameters())


def test_cost_is_that_of_the_paper():
    """279 G are published; counted in the authors' classes, 277.4."""
    side = (800, 1280)
    with torch.device("meta"):
        detector = DINOConfig().build(91).eval()
    macs = count_macs(detector, torch.empty(1, 3, *side), torch.tensor([side]))
    assert macs / 1e9 == pytest.approx(277.4, rel=0.02)


def test_five_scales_read_four_maps_and_one_output_of_swin_more():
    assert [DINOConfig(levels=n).backbone_levels for n in (1, 2, 3, 4, 5)] == [1, 1, 2, 3, 4]
    backbone = SwinConfig(size="demo", outputs=3, weights=None).build()
    assert (backbone.channels, backbone.strides) == ((64, 128, 256), (8, 16, 32))
    assert not hasattr(backbone, "norm0")
    whole = SwinConfig(size="demo", weights=None).build().eval()
    backbone.eval().load_state_dict({k: v for k, v in whole.state_dict().items() if "norm0" not in k})
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        for a, b in zip(backbone(image), whole(image)[1:], strict=True):
            assert a.equal(b)
    with pytest.raises(ConfigError, match=r"--detector\.backbone\.outputs must be from 1 to 4, got 0"):
        SwinConfig(outputs=0)


class Waits(TorchDispatchMode):
    """Collects operations whose result the host must wait for when tensors live on a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal"):
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


def test_extra_queries_never_wait_for_the_device():
    detector, targets = small().train(), objects(3, 1)
    source = NoiseSource(config=NOISE, seed=0, epoch=0)
    noise = pack([source.draw(i, n) for i, n in enumerate(targets.counts)])
    with Waits() as waits:
        extra, truth = denoise(NOISE, targets, noise, SIZES.sizes_hw, 3)
        stages = detector.decode(maps(), SIZES, extra)
        DINO_LOSS.build(3)(stages, targets, SIZES.sizes_hw, normalizer=4, truth=truth)
    assert waits.seen == []


def test_bf16_keeps_noise_boxes_and_loss_of_extra_queries_in_fp32():
    detector, targets = shaken(small()), objects(3, 1)
    exact, _ = denoised(targets)
    with torch.autocast("cpu", torch.bfloat16):
        extra, truth = denoised(targets)
        stages = detector.train().decode(maps(), SIZES, extra)
        loss = DINO_LOSS.build(3)(stages, targets, SIZES.sizes_hw, normalizer=4, truth=truth).total
    assert extra.boxes.equal(exact.boxes)
    found = [p for p in stages if isinstance(p, Reconstructions)]
    assert {t.dtype for p in found for t in (p.logits, p.boxes_xyxy)} == {torch.float32}
    assert loss.dtype == torch.float32
    loss.backward()
    assert all(p.grad.isfinite().all() for p in detector.parameters())


def test_recomputing_layers_changes_no_gradient_of_extra_queries():
    gradients = []
    for recompute in (False, True):
        detector = shaken(small())
        detector.recompute = recompute
        total(detector, objects(3, 1)).backward()
        gradients.append(detector.labels.weight.grad)
    assert_close(*gradients, rtol=1e-5, atol=1e-7)


class NoText(nn.Module):
    """Attention to a text that says nothing."""

    def forward(self, queries, **_):
        return torch.zeros_like(queries), None


def grounding(decoder: Decoder) -> GroundingDinoDecoder:
    """Grounding DINO's decoder with the weights of ours, which attends to no text."""
    config = GroundingDinoConfig(
        d_model=32, decoder_layers=3, decoder_attention_heads=2, decoder_ffn_dim=48, dropout=0.0,
        attention_dropout=0.0, activation_dropout=0.0, decoder_n_points=4, num_feature_levels=3,
    )  # fmt: skip
    theirs = GroundingDinoDecoder(config).eval()
    for layer, ours in zip(theirs.layers, decoder.layers, strict=True):
        layer.encoder_attn_text, layer.encoder_attn_text_layer_norm = NoText(), nn.Identity()
        own = ours.self_attention.update.attention
        parts = zip(("query", "key", "value"), own.qkv_weight.chunk(3), own.qkv_bias.chunk(3), strict=True)
        for name, weight, bias in parts:
            getattr(layer.self_attn, name).weight.data, getattr(layer.self_attn, name).bias.data = (
                weight,
                bias,
            )
        cross = ours.cross_attention.update.attention
        for module, source in (
            (layer.self_attn.out_proj, own.out),
            (layer.self_attn_layer_norm, ours.self_attention.norm),
            (layer.encoder_attn.sampling_offsets, cross.sampling_offsets),
            (layer.encoder_attn.attention_weights, cross.attention_weights),
            (layer.encoder_attn.value_proj, cross.value),
            (layer.encoder_attn.output_proj, cross.out),
            (layer.encoder_attn_layer_norm, ours.cross_attention.norm),
            (layer.fc1, ours.ffn.update.expand),
            (layer.fc2, ours.ffn.update.contract),
            (layer.final_layer_norm, ours.ffn.norm),
        ):
            module.load_state_dict(source.state_dict())
    theirs.layer_norm.load_state_dict(decoder.norm.state_dict())
    theirs.reference_points_head.load_state_dict(decoder.position_head.state_dict())
    theirs.bbox_embed = nn.ModuleList([decoder.heads[0].box_head] * 3)
    return theirs


def test_decoder_is_that_of_transformers_grounding_dino():
    """Groups are hidden from each other. Its inverse sigmoid has a lower floor, which no box here reaches."""
    torch.manual_seed(2)
    decoder = Decoder(
        3, 32, [DetectionHead(32, 3)], look_forward="twice", temperature=10_000.0,
        heads=2, levels=3, points=4, ffn=48, dropout=0.0,
    ).double().eval()  # fmt: skip
    with torch.no_grad():
        for p in decoder.parameters():
            p += 0.05 * torch.randn_like(p)
    shapes = [torch.randn(2, 32, 64 // s, 96 // s, dtype=torch.float64) for s in (8, 16, 32)]
    levels = token_levels(shapes, SIZES)
    memory = torch.randn(2, levels.mask.shape[1], 32, dtype=torch.float64)
    x, boxes = torch.randn(2, 7, 32, dtype=torch.float64), 0.2 + 0.5 * torch.rand(2, 7, 4).double()
    hidden = hide_groups(torch.tensor([[0, 0, 1], [0, 1, -1]]), 4)
    normed: list[torch.Tensor] = []
    decoder.norm.register_forward_hook(lambda *args: normed.append(args[2]))
    entering: list[torch.Tensor] = []
    for layer in decoder.layers:
        layer.register_forward_pre_hook(lambda _, args: entering.append(args[2][1]))
    with torch.no_grad():
        decoder(x, boxes, memory, levels, hidden)
        theirs = grounding(decoder).double()(
            inputs_embeds=x,
            vision_encoder_hidden_states=memory,
            vision_encoder_attention_mask=~levels.mask,
            reference_points=boxes,
            spatial_shapes=torch.tensor(levels.shapes_hw),
            spatial_shapes_list=list(levels.shapes_hw),
            level_start_index=torch.tensor([0, 96, 120]),
            valid_ratios=levels.inside_share.double(),
            self_attn_mask=torch.zeros(2, 1, 7, 7).double().masked_fill(hidden[:, None], -torch.inf),
            return_dict=True,
        )
    assert_close(torch.stack(normed, 1), theirs.intermediate_hidden_states, rtol=1e-6, atol=1e-6)
    references = theirs.intermediate_reference_points.unbind(1)
    for ours, reference in zip(entering[1:], references, strict=False):
        assert_close(ours, reference, rtol=1e-6, atol=1e-6)


def test_proposals_are_the_chosen_tokens():
    detector = shaken(small()).eval()
    with torch.no_grad():
        first = detector.decode(maps(), SIZES)[0]
    assert isinstance(first, Proposals)
    assert not first.class_agnostic
    best = first.logits.amax(-1)
    assert (best[:, :-1] >= best[:, 1:]).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"queries": 0}, "--detector.queries must be at least 1, got 0"),
        ({"query_temperature": 0.0}, "--detector.query-temperature must be above 0"),
        ({"width": 48}, "--detector.width 48 must split evenly into 32"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_their_flag(settings, message):
    with pytest.raises(ConfigError, match=message):
        DINOConfig(**settings)
