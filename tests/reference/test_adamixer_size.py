"""Parameters and multiply-accumulates of the published AdaMixers, on the meta device."""

import json

import pytest
import torch

from qdet.backbones import ResNetConfig, ResNeXtDCNConfig, SwinConfig
from qdet.detectors import AdaMixer, AdaMixerConfig
from qdet.detectors.complexity import count_macs, count_parameters

MODELS = {
    "adamixer_r50_100q": (AdaMixerConfig(backbone=ResNetConfig(depth=50, norm="eval")), 134_790_904),
    "adamixer_r50_300q": (
        AdaMixerConfig(backbone=ResNetConfig(depth=50, norm="eval"), queries=300),
        134_842_904,
    ),
    "adamixer_r101_300q": (
        AdaMixerConfig(backbone=ResNetConfig(depth=101, norm="eval"), queries=300),
        153_835_032,
    ),
    "adamixer_dx101_300q": (AdaMixerConfig(backbone=ResNeXtDCNConfig(), queries=300), 156_035_380),
    "adamixer_swin_s_300q": (AdaMixerConfig(backbone=SwinConfig(size="s"), queries=300), 159_559_074),
    "adamixer_swin_t_300q": (AdaMixerConfig(backbone=SwinConfig(size="t"), queries=300), 138_241_170),
}


def build(config: AdaMixerConfig) -> AdaMixer:
    with torch.device("meta"):
        return config.build(80)


def first_boxes(detector: AdaMixer) -> int:
    """Numbers that the authors count as parameters, though no gradient reaches them; a buffer here."""
    return detector.decoder.first_boxes_cxcywh.numel()


@pytest.mark.parametrize("name", MODELS)
def test_parameters_are_the_authors(name):
    config, published = MODELS[name]
    detector = build(config)
    assert count_parameters(detector) + first_boxes(detector) == published


def test_parts_are_the_authors(parity_dir):
    counts = json.loads((parity_dir / "param_counts.json").read_text())["models"]
    for name in MODELS.keys() & counts.keys():
        detector, theirs = build(MODELS[name][0]), counts[name]["by_top_module"]
        assert count_parameters(detector.backbone) == theirs["backbone"]
        assert count_parameters(detector.neck) == theirs["neck"]
        assert sum(count_parameters(s) for s in detector.decoder.stages) == theirs["roi_head"]
        assert detector.decoder.content.weight.numel() + first_boxes(detector) == theirs["rpn_head"]
        trainable = counts[name]["params_trainable_flag"] - first_boxes(detector)
        assert count_parameters(detector, trainable=True) == trainable


@pytest.mark.parametrize(
    ("queries", "size", "billions"),
    [
        (100, (800, 1280), 103.3),
        (300, (800, 1280), 127.4),
    ],
)
def test_multiply_accumulates_equal_the_papers(queries, size, billions):
    """At 800 x 1333, 107.5 and 131.7: `tests/contracts/test_zoo.py`."""
    detector = build(AdaMixerConfig(queries=queries))
    macs = count_macs(detector, torch.empty(1, 3, *size), torch.tensor([size]))
    assert macs / 1e9 == pytest.approx(billions, rel=0.02)


@pytest.mark.parametrize(
    ("switch", "millions"),
    [
        ({"groups": 1}, 191.19),
        ({"groups": 2}, 147.13),
        ({"groups": 8}, 148.02),
        ({"points_in": 8}, 115.4),
        ({"points_in": 16}, 121.9),
        ({"points_in": 64}, 160.6),
        ({"points_out": 32}, 78.1),
        ({"points_out": 64}, 97.0),
        ({"points_out": 256}, 210.4),
    ],
    ids=str,
)
def test_parameters_of_the_ablations_of_size(switch, millions):
    detector = build(AdaMixerConfig(**switch))
    digits = 2 if "groups" in switch else 1
    assert round((count_parameters(detector) + first_boxes(detector)) / 1e6, digits) == millions
