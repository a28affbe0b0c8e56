"""AdaMixer's ablations: each switch changes what it says and nothing else."""

import re
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from qdet.detectors import AdaMixer, AdaMixerConfig
from qdet.detectors.adamixer.xyzr import place
from qdet.errors import ConfigError
from qdet.types import PaddedSizes
from tests.support.recordings import Features

CHANNELS, STRIDES, CLASSES = (16, 24, 32, 48), (4, 8, 16, 32), 7
SIZES = PaddedSizes(torch.tensor([[96, 128], [80, 100]]), (96, 128))
BASE = replace(AdaMixerConfig().demo(), queries=9, stages=2, points_in=8, points_out=12)


def maps() -> list[torch.Tensor]:
    torch.manual_seed(1)
    return [torch.randn(2, c, 96 // s, 128 // s) for c, s in zip(CHANNELS, STRIDES, strict=True)]


def build(**settings) -> AdaMixer:
    """Make a detector whose weights are all random."""
    torch.manual_seed(0)
    detector = AdaMixer(replace(BASE, **settings), Features(CHANNELS, STRIDES), CLASSES).eval()
    for p in detector.parameters():
        torch.nn.init.normal_(p, std=0.1)
    return detector


def shapes(**settings) -> dict[str, torch.Size]:
    detector = AdaMixer(replace(BASE, **settings), Features(CHANNELS, STRIDES), CLASSES)
    return {name: t.shape for name, t in detector.state_dict().items()}


OFFSETS, WRITTEN, MIXED = r"sampling\.offsets\.", r"mixing\.weights\.", r"mixing\.out\.weight"
CHANGED = {  # what has another shape, is not there any more, or is new
    "sampling=2d": OFFSETS,
    "sampling=c3": rf"{OFFSETS}|neck\.lateral\.",
    "sampling=c4": rf"{OFFSETS}|neck\.lateral\.",
    "sampling=c5": rf"{OFFSETS}|neck\.lateral\.",
    "sampling=roi-align": rf"{OFFSETS}|{WRITTEN}",
    "mixing=asm-acm": None,
    "mixing=acm-acm": f"{WRITTEN}|{MIXED}",
    "mixing=asm-asm": WRITTEN,
    "adaptive=content": rf"{OFFSETS}weight",
    "adaptive=location": rf"{WRITTEN}weight",
    "adaptive=none": rf"({OFFSETS}|{WRITTEN})weight",
    "position=sine": r"attention\.overlap_scale",
    "position=iof": None,
    "position=none": r"attention\.overlap_scale",
    "pyramid=fpn": r"pyramid\.(lateral|output)\.",
    "pyramid=pafpn": r"pyramid\.(fpn|down|output)\.",
    "points_in=64": f"{OFFSETS}|{WRITTEN}",
    "points_out=64": f"{WRITTEN}|{MIXED}",
    "groups=8": f"{OFFSETS}|{WRITTEN}",
}


@pytest.mark.parametrize("switch", CHANGED)
def test_changes_the_weights_of_its_own_part_only(switch):
    name, _, value = switch.partition("=")
    setting = int(value) if value.isdigit() else value
    before, after = shapes(), shapes(**{name: setting})
    other = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
    pattern = CHANGED[switch]
    assert bool(other) == (pattern is not None)
    assert all(re.search(pattern or "", key) for key in other)
    stages = {key.split(".")[2] for key in other if key.startswith("decoder.stages.")}
    assert stages in (set(), {"0", "1"})


def written(detector: AdaMixer, part: str) -> torch.Tensor:
    """What a generator of the last stage writes: one row per query of all images."""
    seen = []
    generator = detector.decoder.get_submodule(f"stages.1.{part}")
    generator.register_forward_hook(lambda _, args, out: seen.append(out.flatten(0, 1)))
    with torch.no_grad():
        detector.decode(maps(), SIZES)
    return seen[0]


@pytest.mark.parametrize("adaptive", ["both", "location", "content", "none"])
def test_without_adaptability_all_queries_write_the_same(adaptive):
    detector = build(adaptive=adaptive)
    for part, what in (("sampling.offsets", "location"), ("mixing.weights", "content")):
        spread = written(detector, part).std(dim=0)
        assert (spread.min() > 0) == (spread.max() > 0) == (adaptive in ("both", what))


@pytest.mark.parametrize("position", ["both", "sine", "iof", "none"])
def test_each_position_switch_shows_attention_its_part_of_the_box(position):
    """Moving all boxes alike keeps their overlap, so that only the sine embedding can tell."""
    detector = build(position=position)
    stage = detector.decoder.stages[0]
    seen = []
    stage.attention_norm.register_forward_hook(lambda _, args, out: seen.append(out))
    content = torch.randn(1, 9, BASE.width)
    xyzr = torch.tensor([64.0, 48, 4, 0]) + torch.rand(1, 9, 4) * torch.tensor([20.0, 20, 1, 0.5])
    moved = xyzr + torch.tensor([16.0, 8, 0, 0])
    spread = (xyzr - torch.tensor([64.0, 48, 0, 0])) * torch.tensor([4.0, 4, 1, 1])
    read = [m[:1] for m in detector.neck(maps())]
    with torch.no_grad():
        for boxes in (xyzr, moved, spread):
            stage(content, place(boxes), read)
    same, as_moved, as_spread = seen
    assert torch.allclose(same, as_moved, atol=1e-5) == (position in ("iof", "none"))
    assert torch.allclose(same, as_spread, atol=1e-5) == (position == "none")


@pytest.mark.parametrize(("sampling", "level"), [("c3", 1), ("c4", 2), ("c5", 3), ("3d", None), ("2d", None)])
def test_sampling_from_one_level_reads_that_level(sampling, level):
    detector, features = build(sampling=sampling), maps()
    with torch.no_grad():
        before = detector.decode(features, SIZES)[-1].logits
        for i, feature in enumerate(features):
            changed = [*features[:i], feature + torch.randn_like(feature), *features[i + 1 :]]
            same = detector.decode(changed, SIZES)[-1].logits.equal(before)
            assert same == (level is not None and i != level)


@pytest.mark.parametrize(
    ("pyramid", "reached"), [("none", (3,)), ("fpn", (0, 1, 2, 3)), ("pafpn", (0, 1, 2, 3))]
)
def test_a_pyramid_passes_information_between_levels(pyramid, reached):
    detector, features = build(pyramid=pyramid), maps()
    seen = []
    detector.pyramid.register_forward_hook(lambda _, args, out: seen.append(out))
    with torch.no_grad():
        detector.decode(features, SIZES)
        detector.decode([*features[:3], features[3] + 1 + torch.randn_like(features[3])], SIZES)
    assert tuple(i for i, (a, b) in enumerate(zip(*seen, strict=True)) if not a.equal(b)) == reached


def test_scale_is_chosen_in_three_dimensions_only():
    """In two, every point of a query lies on the level of its box."""
    for sampling, chosen in (("3d", True), ("2d", False)):
        stage = build(sampling=sampling).decoder.stages[0].sampling
        assert (stage.offsets.out_features == 3 * BASE.groups * BASE.points_in) is chosen


def test_the_switches_of_a_fresh_model_start_from_the_same_function():
    """Generators start from their biases, so adaptability changes nothing before the first step."""
    torch.manual_seed(0)
    on = AdaMixer(BASE, Features(CHANNELS, STRIDES), CLASSES).eval()
    off = AdaMixer(replace(BASE, adaptive="none"), Features(CHANNELS, STRIDES), CLASSES).eval()
    off.load_state_dict({name: t for name, t in on.state_dict().items() if name in off.state_dict()})
    with torch.no_grad():
        for a, b in zip(on.decode(maps(), SIZES), off.decode(maps(), SIZES), strict=True):
            assert_close(a.logits, b.logits)
            assert_close(a.boxes_xyxy, b.boxes_xyxy)


def test_a_pyramid_of_one_level_is_refused():
    with pytest.raises(ConfigError, match=r"--detector\.pyramid needs all levels"):
        AdaMixerConfig(pyramid="fpn", sampling="c4")
