"""bf16 and fp32 agree over a whole decoder, and each island of full precision is needed for that."""

import math
from collections.abc import Callable
from copy import deepcopy
from typing import get_args

import pytest
import torch
import torch.nn.functional as F

from qdet.backbones import SwinConfig
from qdet.boxes import cxcywh_to_xyzr, xyxy_to_cxcywh
from qdet.detectors import AdaMixerConfig
from qdet.detectors.adamixer.adaptive_mixing import _norm_last_two
from qdet.detectors.adamixer.channel_mapping import _group_norm
from qdet.detectors.adamixer.model import Decoder
from qdet.detectors.adamixer.sampling_3d import sample_points
from qdet.detectors.adamixer.xyzr import log_iof, place, refine_xyzr
from qdet.layers import precision
from qdet.layers.heads import Head
from qdet.layers.position import embed_xyzr
from qdet.layers.precision import Island, fp32_island, widen
from qdet.losses import SetLossConfig
from qdet.types import Predictions, Targets

HEIGHT, WIDTH = 800, 1344
STRIDES = (4, 8, 16, 32)


def narrow(value):
    return precision._map_tensors(value, lambda t: t.bfloat16() if t.is_floating_point() else t)


def sink(monkeypatch: pytest.MonkeyPatch, island: Island) -> None:
    """Let one island run as its surroundings do: bfloat16 inputs, autocast on, bfloat16 out."""
    run = precision._run

    def sunk(name: Island, function: Callable, args: tuple, kwargs: dict):
        if name != island or not torch.is_autocast_enabled("cpu"):
            return run(name, function, args, kwargs)
        return narrow(function(*narrow(args), **narrow(kwargs)))

    monkeypatch.setattr(precision, "_run", sunk)


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    """A decoder of the published depth whose boxes move: fresh box heads would leave them in place."""
    torch.manual_seed(1)
    config = AdaMixerConfig(
        backbone=SwinConfig(), queries=40, width=64, feature_width=64, points_out=32, ffn=128, start="grid"
    )
    decoder = Decoder(config, STRIDES, 8).eval()
    for stage in decoder.stages:
        torch.nn.init.normal_(stage.box_head.weight, std=0.005)
    return decoder


@pytest.fixture(scope="module")
def features() -> list[torch.Tensor]:
    """Maps of a large image, as smooth as a backbone's."""
    torch.manual_seed(2)
    shapes = [(HEIGHT // s, WIDTH // s) for s in STRIDES]
    return [F.interpolate(torch.randn(1, 64, 13, 21), size=s, mode="bicubic") for s in shapes]


def distance(decoder: Decoder, features: list[torch.Tensor]) -> tuple[float, float]:
    """Mean difference between bf16 and fp32 at the worst stage: of boxes in pixels, of logits."""
    sizes = torch.tensor([[HEIGHT, WIDTH - 11]])
    with torch.no_grad():
        exact = decoder(features, sizes)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = decoder(features, sizes)
    pairs = list(zip(exact, rounded, strict=True))
    return (
        max((a.boxes_xyxy - b.boxes_xyxy).abs().mean().item() for a, b in pairs),
        max((a.logits - b.logits).abs().mean().item() for a, b in pairs),
    )


BOX_TOLERANCE = 0.5  # pixels, of boxes around 300 wide; measured 0.17
LOGIT_TOLERANCE = 0.02  # measured 0.007


def test_a_decoder_agrees_in_both_precisions(decoder, features):
    boxes, logits = distance(decoder, features)
    assert 0 < boxes < BOX_TOLERANCE
    assert 0 < logits < LOGIT_TOLERANCE
    with torch.autocast("cpu", torch.bfloat16):
        last = decoder(features, torch.tensor([[HEIGHT, WIDTH]]))[-1]
    assert last.boxes_xyxy.dtype == last.logits.dtype == torch.float32


@pytest.mark.parametrize("island", ["geometry", "sampling"])  # measured: 5.4 and 1.4 pixels
def test_a_decoder_needs_its_coordinates_exact(decoder, features, monkeypatch, island):
    sink(monkeypatch, island)
    boxes, logits = distance(decoder, features)
    assert boxes > BOX_TOLERANCE
    assert logits > LOGIT_TOLERANCE


def boxes_in_a_large_image(count: int = 50) -> torch.Tensor:
    corners = torch.rand(1, count, 2) * torch.tensor([WIDTH - 40.0, HEIGHT - 40.0])
    return torch.cat((corners, corners + 8 + 32 * torch.rand(1, count, 2)), dim=-1)


def some_xyzr() -> torch.Tensor:
    return cxcywh_to_xyzr(xyxy_to_cxcywh(boxes_in_a_large_image()))


def half(*shape: int) -> torch.Tensor:
    return torch.randn(*shape).bfloat16()


def losses(logits: torch.Tensor, boxes: torch.Tensor, objects: torch.Tensor) -> torch.Tensor:
    targets = Targets(objects, torch.arange(len(objects)) % 3, (len(objects),))
    sizes = torch.tensor([[HEIGHT, WIDTH]])
    loss = SetLossConfig().build(3)([Predictions(logits, boxes)], targets, sizes, normalizer=1)
    return torch.stack([loss.terms[name] for name in ("classification", "l1", "giou")])


def some_losses() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    boxes = boxes_in_a_large_image()
    return half(1, 50, 3), boxes, boxes[0, :20] + 3


def like(x: torch.Tensor, module: torch.nn.Module) -> torch.nn.Module:
    return deepcopy(module).double() if x.dtype == torch.float64 else module


HEAD = Head(64, 4)
GROUP_NORM = torch.nn.GroupNorm(4, 16)

# Of each island: what runs on it, inputs as a decoder in bf16 has them, the largest error against float64.
CASES: dict[Island, list[tuple[Callable, Callable, float]]] = {
    "geometry": [
        (lambda x: place(x).xyxy, lambda: (some_xyzr(),), 1e-2),
        (refine_xyzr, lambda: (some_xyzr(), 0.1 * half(1, 50, 4)), 1e-2),
    ],
    "overlap": [(log_iof, lambda: (boxes_in_a_large_image(),), 1e-2)],
    "position": [(lambda x: embed_xyzr(x, 64, scale=1e-3), lambda: (some_xyzr(),), 1e-4)],
    "sampling": [
        (lambda x, o: sample_points(place(x), o), lambda: (some_xyzr(), half(1, 50, 2, 4, 3)), 1e-2)
    ],
    "norm": [
        (_norm_last_two, lambda: (half(1, 5, 2, 32, 16) + 8,), 1e-4),
        (lambda x: _group_norm(x, like(x, GROUP_NORM)), lambda: (half(2, 16, 9, 9) + 8,), 1e-4),
    ],
    "head": [(lambda x: like(x, HEAD)(x), lambda: (torch.randn(1, 50, 64),), 1e-4)],
    "loss": [(losses, some_losses, 1e-3)],
}


def error(function: Callable, inputs: tuple[torch.Tensor, ...]) -> float:
    with torch.no_grad():
        exact = function(*(t.double() for t in inputs))
        with torch.autocast("cpu", torch.bfloat16):
            try:
                return (function(*inputs) - exact).abs().max().item()
            except (NotImplementedError, TypeError):  # kernels and numpy that have no bfloat16
                return math.inf


@pytest.mark.parametrize(
    ("island", "function", "inputs", "tolerance"),
    [
        pytest.param(name, *case, id=f"{name}{i}")
        for name, cases in CASES.items()
        for i, case in enumerate(cases)
    ],
)
def test_an_fp32_island_is_exact_and_would_not_be_in_bf16(island, function, inputs, tolerance, monkeypatch):
    inputs = inputs()
    assert error(function, inputs) < tolerance
    sink(monkeypatch, island)
    assert error(function, inputs) > 3 * tolerance


def test_every_fp32_island_is_tested():
    assert set(CASES) == set(get_args(Island))


def test_widen_reaches_into_containers_and_leaves_the_rest():
    given = {
        "a": [half(2), (half(1).half(), 3)],
        "b": torch.ones(1, dtype=torch.float64),
        "c": torch.arange(2),
    }
    wide = widen(given)
    assert wide["a"][0].dtype == wide["a"][1][0].dtype == torch.float32
    assert wide["a"][1][1] == 3
    assert wide["b"] is given["b"]
    assert wide["c"] is given["c"]


def test_an_fp32_island_turns_autocast_off_only_for_itself():
    @fp32_island("norm")
    def product(a, b):
        return a @ b

    a = torch.randn(3, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert product(a, a).dtype == torch.float32
        assert (a @ a).dtype == torch.bfloat16
    assert product(a.double(), a.double()).dtype == torch.float64
    assert product(a.to("meta"), a.to("meta")).device.type == "meta"
