"""Backbones against numbers recorded from the authors' code: maps, parameters, products, checkpoint names."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from qdet.backbones import ResNetConfig, ResNeXtDCNConfig, SwinConfig
from qdet.backbones.layouts import to_qdet
from qdet.backbones.resnet import ResNet
from qdet.backbones.swin.model import Swin
from qdet.backbones.weights import load_state
from qdet.detectors.complexity import count_macs, count_parameters

R50, R101 = ResNetConfig(depth=50), ResNetConfig(depth=101)


def resnet_of(config: dict, norm: str) -> ResNet:
    common = {"norm": norm, "freeze": False}
    if "hidden_sizes" in config:  # transformers
        planes = [size // 4 for size in config["hidden_sizes"]]
        return ResNet(config["depths"], width=config["embedding_size"], planes=planes, **common)
    return ResNet(
        config["layers"],
        width=config["stem"],
        planes=config["planes"],
        groups=config.get("groups", 1),
        width_per_group=config.get("width_per_group", 64),
        dilate_c5=config.get("replace_stride_with_dilation", [False] * 3)[2],
        **common,
    )


def swin_of(config: dict) -> Swin:
    return Swin(
        config.get("embed_dim", config.get("embed_dims")),
        depths=config["depths"],
        heads=config["num_heads"],
        window=config["window_size"],
        mlp_ratio=float(config["mlp_ratio"]),
        drop_path=config["drop_path_rate"],
    )


def backbone_of(config: dict, norm: str) -> torch.nn.Module:
    return swin_of(config) if "window_size" in config else resnet_of(config, norm)


def maps_by_name(module: torch.nn.Module, images: torch.Tensor, config: dict) -> dict[str, torch.Tensor]:
    """Every recorded name of an output and our map of it."""
    stem = []
    if isinstance(module, ResNet):
        module.get_submodule("layer1").register_forward_pre_hook(lambda _, inputs: stem.append(inputs[0]))
    maps = module(images)
    if isinstance(module, ResNet):
        named = {"stem": stem[0]} | {f"layer{i + 1}": m for i, m in enumerate(maps)}
        return named | {f"hidden{i}": m for i, m in enumerate([stem[0], *maps])}
    return {f"out{i}": m for i, m in enumerate(maps)} | {f"stage{i + 1}": m for i, m in enumerate(maps)}


def recorded(parity_dir: Path) -> list[Path]:
    return sorted(parity_dir.glob("backbone_*.json"))


@pytest.mark.parametrize("norm", ["frozen", "eval"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_maps_equal_the_authors(parity_dir, dtype, norm):
    compared = 0
    for path in recorded(parity_dir):
        said = json.loads(path.read_text())
        tensors = load_file(path.with_suffix(".safetensors"))
        weights = {k.removeprefix("weights/"): t for k, t in tensors.items() if k.startswith("weights/")}
        module = backbone_of(said["config"], norm)
        load_state(module, to_qdet(weights), name=path.name)
        module.to(dtype).eval()
        for key, images in tensors.items():
            if not key.startswith("inputs/"):
                continue
            case = key.removeprefix("inputs/")
            ours = maps_by_name(module, images.to(dtype), said["config"])
            for name in (n for n in tensors if n.startswith(f"outputs/{case}/")):
                short = name.rpartition("/")[2]
                if short == "stem" and isinstance(module, Swin):
                    continue  # transformers also gives the embedded patches; no detector reads them
                allowed = 4 * said["float32_vs_float64_max_abs"][name] if dtype == torch.float32 else 1e-6
                off = (ours[short].double() - tensors[name]).abs().max().item()
                assert off <= allowed, f"{path.name} {name}: off by {off}, allowed {allowed}"
                compared += 1
    assert compared, "no backbone was recorded there"


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (ResNetConfig(norm="eval"), 23_508_032),
        (ResNetConfig(norm="frozen"), 23_454_912),
        (ResNetConfig(norm="frozen", dilate_c5=True), 23_454_912),
        (ResNetConfig(depth=101, norm="eval"), 42_500_160),
        (ResNetConfig(depth=101), 42_394_816),
        (ResNetConfig(depth=101, groups=32, width_per_group=4, norm="eval"), 42_128_704),
        (ResNetConfig(depth=101, groups=64, width_per_group=4, norm="eval"), 81_406_272),
        (ResNetConfig(depth=101, groups=32, width_per_group=8, norm="eval"), 86_742_336),
        (ResNeXtDCNConfig(), 44_700_508),
        (SwinConfig(size="t"), 27_520_698),
        (SwinConfig(size="s"), 48_838_602),
    ],
    ids=str,
)
def test_parameters_are_exactly_the_authors(config, parameters):
    with torch.device("meta"):
        assert count_parameters(config.build()) == parameters


@pytest.mark.parametrize(
    ("config", "frozen"),
    [
        (ResNetConfig(), 222_400),
        (ResNetConfig(depth=101), 222_400),
        (ResNetConfig(norm="eval"), 222_400 + 2 * (64 + 3 * (64 + 64 + 256) + 256)),
        (ResNetConfig(depth=101, groups=32, width_per_group=4), 211_648),
        (ResNetConfig(depth=101, groups=64, width_per_group=4), 397_504),
        (ResNetConfig(depth=101, groups=32, width_per_group=8), 425_152),
        (SwinConfig(), 0),
    ],
    ids=str,
)
def test_the_frozen_part_is_exactly_the_authors(config, frozen):
    with torch.device("meta"):
        module = config.build()
    assert count_parameters(module) - count_parameters(module, trainable=True) == frozen


def test_parameters_equal_those_inside_whole_detectors(parity_dir):
    models = json.loads((parity_dir / "param_counts.json").read_text())["models"]
    ours = {
        "adamixer_r50_300q": ResNetConfig(norm="eval"),
        "adamixer_r101_300q": ResNetConfig(depth=101, norm="eval"),
        "adamixer_dx101_300q": ResNeXtDCNConfig(),
        "adamixer_swin_s_300q": SwinConfig(),
        "anchor_detr_dc5_r50": ResNetConfig(dilate_c5=True),
        "anchor_detr_r101": R101,
    }
    for name, config in ours.items():
        with torch.device("meta"):
            module = config.build()
        assert count_parameters(module) == models[name]["by_top_module"]["backbone"], name


@pytest.mark.parametrize(
    ("config", "side", "giga"),
    [
        (R50, (800, 1333), 87.33),
        (R50, (800, 1280), 83.41),
        (ResNetConfig(dilate_c5=True), (800, 1333), 132.75),
        (R101, (800, 1333), 166.88),
        (R101, (800, 1280), 159.17),
        (ResNetConfig(depth=101, dilate_c5=True), (800, 1333), 212.30),
        (ResNetConfig(depth=101, groups=32, width_per_group=4), (800, 1333), 170.5),
        (SwinConfig(size="t"), (224, 224), 4.5),  # table 1 of the paper
        (SwinConfig(size="s"), (224, 224), 8.7),
    ],
    ids=str,
)
def test_products_are_those_measured_on_the_authors_code(config, side, giga):
    with torch.device("meta"):
        module = config.build()
    assert math.isclose(count_macs(module, torch.empty(1, 3, *side)) / 1e9, giga, rel_tol=0.02)


def test_deformable_convolution_is_counted_as_its_convolutions():
    """X101 and X101-DCN differ by the offsets' own 3 x 3 convolutions, at every place the taps are read."""
    plain = ResNetConfig(depth=101, groups=32, width_per_group=4)
    with torch.device("meta"):
        images = torch.empty(1, 3, 128, 192)
        more = count_macs(ResNeXtDCNConfig().build(), images) - count_macs(plain.build(), images)
    pixels = [16 * 24, 8 * 12, 4 * 6]
    blocks, widths = (4, 23, 3), (256, 512, 1024)
    assert more == sum(n * 9 * 18 * w * p for n, w, p in zip(blocks, widths, pixels, strict=True))


CHECKPOINTS = {
    "torchvision_resnet50": R50,
    "torchvision_resnet101": R101,
    "torchvision_resnext101_32x4d": ResNeXtDCNConfig(),
    "torchvision_resnext101_64x4d": ResNetConfig(depth=101, groups=64, width_per_group=4),
    "torchvision_resnext101_32x8d": ResNetConfig(depth=101, groups=32, width_per_group=8),
    "backbone_swin_official_swin_s": SwinConfig(),
    "backbone_swin_adamixer_mmdet_swin_s": SwinConfig(),
    "adamixer_r50_300q": ResNetConfig(norm="eval"),
    "adamixer_dx101_300q": ResNeXtDCNConfig(),
    "adamixer_swin_s_300q": SwinConfig(),
    "detr_r50": R50,
    "anchor_detr_r101": R101,
    "sparse_rcnn_r101_300pro": R101,
    "mmdet_sparse_rcnn_r50_100q": ResNetConfig(norm="eval"),
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_every_published_checkpoint_fits_by_names_and_shapes(parity_dir, name):
    listed = json.loads((parity_dir / "keys" / f"{name}.json").read_text())["keys"]
    with torch.device("meta"):
        module = CHECKPOINTS[name].build()
        load_state(module, to_qdet({key: torch.empty(shape) for key, shape in listed.items()}), name=name)
