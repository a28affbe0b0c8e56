"""Every island of fp32, function by function: exact on it, and off by a stated bound without it.

Off, a function runs as its surroundings do: inputs in bfloat16, autocast on, results in bfloat16. The error
is the largest difference to the same function in float64, with the inputs that a decoder in bf16 has: boxes
in fp32, all else in bfloat16.
"""

import ast
import inspect
import math
from copy import deepcopy
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch.nn import LayerNorm

import qdet
from qdet.detectors import detector as detections
from qdet.detectors.adamixer import adaptive_mixing, channel_mapping, sampling_3d, xyzr
from qdet.detectors.dab_detr.model import modulate
from qdet.detectors.dab_detr.queries import normalize_anchors
from qdet.detectors.dino.decoder import Decoder
from qdet.detectors.dynamic_detr.dynamic_relu import _lines
from qdet.detectors.dynamic_detr.pyramid_conv import PyramidConv
from qdet.detectors.smca.gaussian_prior import GaussianPrior, log_gaussian
from qdet.layers import position, precision, reference_points
from qdet.layers.attention import deformable
from qdet.layers.attention.multi_head import attend, attention_weights
from qdet.layers.conv import deformable_conv
from qdet.layers.conv.multi_level_neck import Level
from qdet.layers.denoising import apply as noising
from qdet.layers.denoising.queries import start_boxes
from qdet.layers.heads import Head
from qdet.layers.regions import roi_align
from qdet.layers.regions.box_deltas import apply_deltas
from qdet.layers.regions.decoder import embed_boxes
from qdet.layers.token_levels import TokenLevels, token_levels
from qdet.losses import SetLossConfig, reconstruction
from qdet.losses.groups import Group
from qdet.losses.set_loss import SetLoss
from qdet.types import (
    BatchDetections,
    ExtraQueries,
    PaddedSizes,
    Predictions,
    Reconstruction,
    Reconstructions,
    Targets,
)

HEIGHT, WIDTH = 800, 1344
SIZES = torch.tensor([[HEIGHT, WIDTH - 11]])
SHAPES = ((100, 168), (50, 84), (25, 42))
STRIDES = (8, 16, 32)


def half(*shape: int, scale: float = 1.0) -> torch.Tensor:
    return (scale * torch.randn(*shape)).bfloat16()


def boxes(count: int = 50) -> torch.Tensor:
    corners = torch.rand(1, count, 2) * torch.tensor([WIDTH - 240.0, HEIGHT - 240.0])
    return torch.cat((corners, corners + 8 + 200 * torch.rand(1, count, 2)), dim=-1)


def shares(*shape: int) -> torch.Tensor:
    """Coordinates as shares of an image, away from its edges."""
    return 0.02 + 0.96 * torch.rand(*shape)


def some_xyzr() -> torch.Tensor:
    return xyzr.cxcywh_to_xyzr(qdet.boxes.xyxy_to_cxcywh(boxes()))


def smooth_maps(channels: int) -> list[torch.Tensor]:
    """Maps whose values change from cell to cell, as a backbone's do."""
    return [
        F.interpolate(torch.randn(1, channels, 13, 21), size=s, mode="bicubic").bfloat16() for s in SHAPES
    ]


def levels() -> TokenLevels:
    return token_levels([torch.zeros(1, 1, *s) for s in SHAPES], PaddedSizes(SIZES, (HEIGHT, WIDTH)))


def tokens(channels: int) -> torch.Tensor:
    return torch.cat([m.flatten(2).mT for m in smooth_maps(channels)], dim=1)


def like(x: torch.Tensor, module: torch.nn.Module) -> torch.nn.Module:
    return deepcopy(module).double() if x.dtype == torch.float64 else module


def fixed(make):
    torch.manual_seed(4)
    return make()


HEAD = fixed(lambda: Head(64, 4))
LEVEL = fixed(lambda: Level(8, 16, 4))
GROUP_NORM = torch.nn.GroupNorm(4, 16)
TAPS = fixed(lambda: PyramidConv(32))
torch.nn.init.normal_(TAPS.offset.weight, std=0.1)
DCN = fixed(lambda: deformable_conv.DeformableConv2d(8, 8, modulated=True))
torch.nn.init.normal_(DCN.conv_offset.weight, std=0.3)
PRIOR = fixed(lambda: GaussianPrior(32, (16,), heads=2))
LOSS = SetLossConfig().build(3)


def group(logits: torch.Tensor, found: torch.Tensor, objects: torch.Tensor) -> tuple[SetLoss, Group]:
    targets = Targets(objects, torch.arange(len(objects)) % 3, (len(objects),))
    extent = SIZES.flip(-1).repeat(1, 2)
    return LOSS, Group(["0"], logits[None], found[None], targets, extent)


def some_losses() -> tuple[torch.Tensor, ...]:
    found = boxes()
    return half(1, 50, 3), found, found[0, :20] + 3


def terms(*inputs: torch.Tensor) -> dict[str, torch.Tensor]:
    loss, one = group(*inputs)
    found = loss._compute_terms(one, 1, None)
    return {name: found[name] for name in ("classification", "l1", "giou")}


def matched(*inputs: torch.Tensor) -> torch.Tensor:
    loss, one = group(*inputs)
    return loss._match(one).result().queries.double()


def reconstructed(
    logits: torch.Tensor, found: torch.Tensor, objects: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Terms of extra queries, the first 20 of which have an object each."""
    truth = Reconstruction(
        queries=torch.arange(20),
        objects=torch.arange(20),
        counted=torch.ones(1, 50, dtype=torch.bool),
        groups=torch.tensor([5]),
        dropped=0,
    )
    targets = Targets(objects, torch.arange(20) % 3, (20,))
    stages = [Reconstructions(logits, found)]
    return reconstruction._compute_terms(stages, truth, targets, SIZES, 1, LOSS._focal, LOSS._distances)


def noised(function, boxes_xyxy: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    return function(boxes_xyxy, numbers, torch.arange(50)[None] % 2, 0.4)


def some_noise() -> tuple[torch.Tensor, torch.Tensor]:
    return boxes() / torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT]), torch.rand(1, 50, 10)


def extra(boxes_cxcywh: torch.Tensor) -> ExtraQueries:
    nothing = torch.zeros(1, 50, dtype=torch.int64)
    return ExtraQueries(nothing, boxes_cxcywh, nothing, nothing == 0)


def near_the_threshold() -> torch.Tensor:
    """Boxes one pixel smaller or larger than where a coarser map begins."""
    side = torch.tensor([448.0, 447.0, 449.5, 896.0, 895.0, 223.0, 225.0])
    return torch.cat((torch.zeros(1, 7, 2), side[None, :, None].expand(-1, -1, 2)), dim=-1)


def pyramid(maps) -> roi_align.Pyramid:
    return roi_align.Pyramid.of(list(maps), STRIDES)


def detected(found) -> torch.Tensor:
    return torch.cat((found.boxes_xyxy, found.scores.unsqueeze(-1)), -1)


def some_place() -> tuple[torch.Tensor, ...]:
    return half(1, 20, 64), half(1, 20, 2), shares(1, 20, 4)


ORIGINAL = torch.tensor([[600, 999]])
FACTORS = torch.tensor([[999 / 1333, 0.75]])
POINTS = (1, 20, 2, 3, 4, 2)

CASES = {
    # name: what runs, its inputs, the bound: below it on the island, above it without
    "losses.set_loss.SetLoss._compute_terms": (terms, some_losses, 1e-3),
    "losses.set_loss.SetLoss._match": (matched, some_losses, 0.5),
    "layers.attention.deformable.sampling_locations": (
        lambda r, o: deformable.sampling_locations(r, o, levels()),
        lambda: (shares(1, 20, 2), half(*POINTS)),
        1e-4,
    ),
    "layers.attention.deformable.joint_softmax": (
        deformable.joint_softmax,
        lambda: (half(1, 20, 2, 3, 4),),
        1e-4,
    ),
    "layers.attention.deformable.gather_points": (
        lambda v, p, w: deformable.gather_points(v, p, w, levels()),
        lambda: (tokens(16), shares(*POINTS), torch.rand(1, 20, 2, 3, 4).softmax(-1)),
        1e-3,
    ),
    "layers.reference_points.inverse_sigmoid": (
        reference_points.inverse_sigmoid,
        lambda: (shares(1, 50, 4),),
        1e-3,
    ),
    "layers.reference_points.boxes_from": (
        reference_points.boxes_from,
        lambda: (half(1, 50, 4), shares(1, 50, 4)),
        1e-4,
    ),
    "layers.reference_points.boxes_at": (
        reference_points.boxes_at,
        lambda: (half(1, 50, 4), torch.randn(1, 50, 4)),
        1e-4,
    ),
    "layers.reference_points.to_pixels": (
        lambda b: reference_points.to_pixels(b, SIZES),
        lambda: (shares(1, 50, 4),),
        1e-2,
    ),
    "layers.conv.deformable_conv.DeformableConv2d.offsets": (
        lambda x: like(x, DCN).offsets(x),
        lambda: (half(1, 8, 9, 9),),
        1e-3,
    ),
    "layers.conv.deformable_conv.tap_positions": (
        lambda o: deformable_conv.tap_positions(o, 3, stride=1, padding=1, dilation=1),
        lambda: (half(1, 18, 5, 168),),
        1e-3,
    ),
    "layers.conv.deformable_conv.gather_taps": (
        lambda x, w: deformable_conv.gather_taps(x, w, None),
        lambda: (smooth_maps(4)[0], torch.rand(1, 1, 6, 9, 7, 2) * torch.tensor([160.0, 95.0])),
        1e-3,
    ),
    "layers.conv.multi_level_neck.Level._normalize": (
        lambda x: like(x, LEVEL)._normalize(x),
        lambda: (half(2, 16, 9, 9) + 8,),
        1e-4,
    ),
    "layers.regions.roi_align.roi_align": (
        lambda b, *maps: roi_align.roi_align(pyramid(maps), b),
        lambda: (boxes(), *smooth_maps(4)),
        1e-3,
    ),
    "layers.regions.roi_align.region_levels": (
        lambda b: roi_align.region_levels(b, STRIDES).double(),
        lambda: (near_the_threshold(),),
        0.5,
    ),
    "layers.regions.box_deltas.apply_deltas": (
        apply_deltas,
        lambda: (boxes(), half(1, 50, 4, scale=0.1)),
        1e-2,
    ),
    "layers.regions.decoder.embed_boxes": (lambda b: embed_boxes(b, SIZES, 64), lambda: (boxes(),), 1e-4),
    "layers.heads.Head.forward": (lambda x: like(x, HEAD)(x), lambda: (torch.randn(1, 50, 64),), 1e-4),
    "layers.position.sine_embedding": (
        lambda c: position.sine_embedding(c, 64),
        lambda: (math.tau * shares(1, 50, 2),),
        1e-4,
    ),
    "layers.position.embed_reference": (
        lambda c: position.embed_reference(c, 64),
        lambda: (shares(1, 50, 4),),
        1e-4,
    ),
    "layers.position.embed_xyzr": (
        lambda x: position.embed_xyzr(x, 64, scale=1e-3),
        lambda: (some_xyzr(),),
        1e-4,
    ),
    "detectors.adamixer.sampling_3d.sample_points": (
        lambda x, offsets: sampling_3d.sample_points(xyzr.place(x), offsets),
        lambda: (some_xyzr(), half(1, 50, 2, 4, 3)),
        1e-2,
    ),
    "detectors.adamixer.sampling_3d.level_weights": (
        lambda z: sampling_3d.level_weights(z, STRIDES),
        lambda: (3 + 4 * torch.rand(1, 50),),
        1e-4,
    ),
    "detectors.adamixer.sampling_3d.sample_levels": (
        lambda p, *maps: sampling_3d.sample_levels(p, maps, STRIDES),
        lambda: (torch.rand(1, 30, 2, 4, 3) * torch.tensor([1300.0, 780.0, 6.0]), *smooth_maps(8)),
        1e-3,
    ),
    "detectors.adamixer.channel_mapping._group_norm": (
        lambda x: channel_mapping._group_norm(x, like(x, GROUP_NORM)),
        lambda: (half(2, 16, 9, 9) + 8,),
        1e-4,
    ),
    "detectors.adamixer.adaptive_mixing._norm_last_two": (
        adaptive_mixing._norm_last_two,
        lambda: (half(1, 5, 2, 32, 16) + 8,),
        1e-4,
    ),
    "detectors.adamixer.xyzr.place": (lambda x: xyzr.place(x).xyxy, lambda: (some_xyzr(),), 1e-2),
    "detectors.adamixer.xyzr.refine_xyzr": (
        xyzr.refine_xyzr,
        lambda: (some_xyzr(), half(1, 50, 4, scale=0.1)),
        1e-2,
    ),
    "detectors.adamixer.xyzr.log_iof": (xyzr.log_iof, lambda: (boxes(),), 1e-2),
    "detectors.adamixer.xyzr.scale_to_images": (
        lambda b: xyzr.scale_to_images(b, SIZES),
        lambda: (shares(50, 4),),
        1e-2,
    ),
    "detectors.dab_detr.queries.normalize_anchors": (
        lambda a: normalize_anchors(a, None),
        lambda: (torch.randn(1, 50, 4),),
        1e-4,
    ),
    "detectors.dab_detr.model.modulate": (modulate, some_place, 1e-3),
    "detectors.dynamic_detr.dynamic_relu._lines": (_lines, lambda: (half(2, 32),), 1e-4),
    "detectors.dynamic_detr.pyramid_conv.PyramidConv.taps": (
        lambda x: like(x, TAPS).taps(x),
        lambda: (half(1, 32, 9, 9),),
        1e-3,
    ),
    "detectors.detector.top_by_sigmoid": (
        lambda x, b: detected(detections.top_by_sigmoid(x, b, FACTORS.to(b.dtype), 10)),
        lambda: (torch.randn(1, 50, 3), boxes()),
        1e-2,
    ),
    "detectors.detector.best_of_each_query": (
        lambda x, b: detected(detections.best_of_each_query(Predictions(x, b), SIZES, ORIGINAL)),
        lambda: (torch.randn(1, 50, 4), boxes()),
        1e-2,
    ),
    "detectors.detector.clip_to_images": (
        lambda b, s: detected(
            detections.clip_to_images(BatchDetections(b, s, torch.zeros(1, 50).long()), ORIGINAL)
        ),
        lambda: (boxes(), torch.rand(1, 50)),
        1e-2,
    ),
    "detectors.dino.decoder.Decoder._embed": (
        lambda b: Decoder._embed(SimpleNamespace(norm=LayerNorm(32), temperature=1e4), b, levels()),
        lambda: (shares(1, 50, 4),),
        1e-2,
    ),
    "layers.denoising.apply.noise_labels": (
        lambda n: noising.noise_labels(torch.zeros(1, 50, dtype=torch.int64), n, 0.5, 80),
        lambda: (torch.rand(1, 50, 10),),
        0.5,
    ),
    "layers.denoising.apply._noise_center_and_size": (
        lambda b, n: noised(noising._noise_center_and_size, b, n),
        some_noise,
        1e-3,
    ),
    "layers.denoising.apply._noise_corners": (
        lambda b, n: noised(noising._noise_corners, b, n),
        some_noise,
        1e-3,
    ),
    "layers.denoising.queries.start_boxes": (
        lambda b: start_boxes(extra(b), eps=1e-3),
        lambda: (shares(1, 50, 4),),
        1e-3,
    ),
    "losses.reconstruction._compute_terms": (reconstructed, some_losses, 1e-3),
    "detectors.smca.gaussian_prior.GaussianPrior.forward": (
        lambda g, c: like(g, PRIOR)(g, c, SIZES, SHAPES[1:2]),
        lambda: (half(1, 5, 32), shares(1, 5, 2)),
        1e-1,
    ),
    "detectors.smca.gaussian_prior.GaussianPrior.predict": (
        lambda g, c: like(g, PRIOR).predict(g, c, SIZES),
        lambda: (half(1, 5, 32), shares(1, 5, 2)),
        1e-3,
    ),
    "detectors.smca.gaussian_prior.log_gaussian": (
        lambda c, w: log_gaussian(c, w, SHAPES[1]),
        lambda: (shares(1, 2, 5, 2) * torch.tensor([84.0, 50.0]), torch.full((1, 2, 5, 2), 0.125)),
        1e-2,
    ),
}
"""Of each island: what runs on it, its inputs, and a bound: the error is below a third of it on the island,
and above it without."""


def tensors(value) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value.double().flatten()]
    if isinstance(value, tuple | list):
        return [t for v in value for t in tensors(v)]
    if isinstance(value, dict):
        return tensors(list(value.values()))
    if is_dataclass(value):
        return tensors([getattr(value, f.name) for f in fields(value)])
    return []


def error(function, inputs) -> float:
    with torch.no_grad():
        exact = torch.cat(tensors(function(*(t.double() for t in inputs))))
        with torch.autocast("cpu", torch.bfloat16):
            try:
                found = torch.cat(tensors(function(*inputs)))
            except (NotImplementedError, TypeError):  # kernels and numpy that have no bfloat16
                return math.inf
    return (found - exact).abs().max().item()


def narrow(value):
    return precision._map_tensors(value, lambda t: t.bfloat16() if t.is_floating_point() else t)


def sink(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Let one function run as its surroundings do."""
    run = precision._run

    def sunk(island, function, args, kwargs):
        if f"{function.__module__}.{function.__qualname__}" != f"qdet.{name}":
            return run(island, function, args, kwargs)
        if not torch.is_autocast_enabled("cpu"):
            return run(island, function, args, kwargs)
        return narrow(function(*narrow(args), **narrow(kwargs)))

    monkeypatch.setattr(precision, "_run", sunk)


@pytest.mark.parametrize("name", CASES)
def test_an_island_is_exact_and_needed(name, monkeypatch):
    function, make, bound = CASES[name]
    torch.manual_seed(0)
    inputs = make()
    assert error(function, inputs) < bound / 3
    sink(monkeypatch, name)
    assert error(function, inputs) > bound


def islands_of(file: Path, module: str) -> set[str]:
    """Names of the functions that are marked as islands in a file, methods with their class."""
    found = set()
    for node in ast.parse(file.read_text()).body:
        inner = node.body if isinstance(node, ast.ClassDef) else [node]
        prefix = f"{node.name}." if isinstance(node, ast.ClassDef) else ""
        for one in inner:
            marks = [ast.unparse(d) for d in getattr(one, "decorator_list", [])]
            if any("fp32_island" in mark for mark in marks):
                found.add(f"{module}.{prefix}{one.name}")
    return found


def test_every_function_that_is_an_island_has_a_case():
    package = Path(inspect.getfile(qdet)).parent
    found: set[str] = set()
    for file in sorted(package.rglob("*.py")):
        module = ".".join(file.relative_to(package).with_suffix("").parts)
        found |= islands_of(file, module)
    assert found == set(CASES)


def test_attention_adds_its_bias_in_the_precision_of_its_products():
    """Not an island: a bias b is rounded by |b| / 256 at most, a weight of exp(b) hence by 1 / (256 e)."""
    bias = -torch.linspace(0, 40, 4096, dtype=torch.float64)
    weight, rounded = bias.exp(), bias.bfloat16().double().exp()
    assert (weight - rounded).abs().max() < 1 / (256 * math.e) * 1.01
    torch.manual_seed(1)
    q, k, v = (torch.randn(1, 2, 9, 8).bfloat16() for _ in range(3))
    mask = -8 * torch.rand(1, 2, 9, 9)
    exact = attention_weights(q.double(), k.double(), mask=mask.double()) @ v.double()
    found = attend(q, k, v, mask=mask).double()
    assert (found - exact.transpose(1, 2).flatten(2)).abs().max() < 2e-2
