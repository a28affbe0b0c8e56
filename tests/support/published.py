"""The authors' published models: for each recorded list of keys and shapes, the detector that it fills.

And small ones of the same kinds, with random weights under the authors' names.
"""

import functools
import json
import re
from dataclasses import dataclass, fields, replace
from pathlib import Path

import pytest
import torch

from qdet.backbones import ResNetConfig, ResNeXtDCNConfig, SwinConfig
from qdet.convert import (
    ADAMIXER,
    ANCHOR_DETR,
    CONDITIONAL_DETR,
    CONV_SMCA,
    DAB_DETR,
    DEFORMABLE_DETR,
    DEFORMABLE_DETR_REFINE,
    DETR,
    DINO,
    SMCA,
    SPARSE_RCNN,
    SPARSE_RCNN_MMDET,
    Table,
    rename,
)
from qdet.detectors import (
    DN_DETR_DENOISING,
    AdaMixerConfig,
    AnchorDETRConfig,
    ConditionalDETRConfig,
    ConvSMCAConfig,
    DABDETRConfig,
    DeformableDETRConfig,
    DetectorConfig,
    DETRConfig,
    DINOConfig,
    SMCAConfig,
    SparseRCNNConfig,
)

R50, R101, DC5_R50 = ResNetConfig(), ResNetConfig(depth=101), ResNetConfig(dilate_c5=True)


@dataclass(frozen=True)
class Official:
    """One of the authors' published models."""

    detector: DetectorConfig
    table: Table
    classes: int
    """Class logits of their model without that of no object: 91 for those that count in COCO's own ids."""


def adamixer(backbone, queries: int) -> Official:
    return Official(AdaMixerConfig(backbone=backbone, queries=queries), ADAMIXER, 80)


def anchor_detr(backbone) -> Official:
    return Official(AnchorDETRConfig(backbone=backbone), ANCHOR_DETR, 91)


def detr(backbone) -> Official:
    return Official(DETRConfig(backbone=backbone), DETR, 91)


def deformable_detr(backbone, **settings) -> Official:
    table = DEFORMABLE_DETR_REFINE if "refine" in settings else DEFORMABLE_DETR
    return Official(DeformableDETRConfig(backbone=backbone, **settings), table, 91)


def sparse_rcnn(backbone, queries: int, table: Table = SPARSE_RCNN) -> Official:
    return Official(SparseRCNNConfig(backbone=backbone, queries=queries), table, 80)


def conditional_detr(backbone) -> Official:
    return Official(ConditionalDETRConfig(backbone=backbone), CONDITIONAL_DETR, 91)


def dab_detr(backbone, patterns: int = 0) -> Official:
    return Official(DABDETRConfig(backbone=backbone, patterns=patterns), DAB_DETR, 91)


def dn_detr(backbone, patterns: int = 0) -> Official:
    config = DABDETRConfig(backbone=backbone, patterns=patterns, denoising=DN_DETR_DENOISING)
    return Official(config, DAB_DETR, 91)


def dino(backbone, **settings) -> Official:
    return Official(DINOConfig(backbone=backbone, **settings), DINO, 91)


FULL_SIZE = {
    "adamixer_r50_100q": adamixer(replace(R50, norm="eval"), 100),
    "adamixer_r50_300q": adamixer(replace(R50, norm="eval"), 300),
    "adamixer_r101_300q": adamixer(replace(R101, norm="eval"), 300),
    "adamixer_dx101_300q": adamixer(ResNeXtDCNConfig(), 300),
    "adamixer_swin_s_300q": adamixer(SwinConfig(size="s"), 300),
    "anchor_detr_r50": anchor_detr(R50),
    "anchor_detr_r101": anchor_detr(R101),
    "anchor_detr_dc5_r50": anchor_detr(DC5_R50),
    "deformable_detr_r50_single_scale": deformable_detr(R50, levels=1),
    "deformable_detr_r50_single_scale_dc5": deformable_detr(DC5_R50, levels=1),
    "deformable_detr_r50": deformable_detr(R50),
    "deformable_detr_r50_refine": deformable_detr(R50, refine=True),
    "deformable_detr_r50_two_stage": deformable_detr(R50, refine=True, two_stage=True),
    "detr_r50": detr(R50),
    "detr_r101": detr(R101),
    "detr_dc5_r50": detr(DC5_R50),
    "sparse_rcnn_r50_100pro": sparse_rcnn(R50, 100),
    "sparse_rcnn_r50_300pro": sparse_rcnn(R50, 300),
    "sparse_rcnn_r101_100pro": sparse_rcnn(R101, 100),
    "sparse_rcnn_r101_300pro": sparse_rcnn(R101, 300),
    "mmdet_sparse_rcnn_r50_100q": sparse_rcnn(replace(R50, norm="eval"), 100, SPARSE_RCNN_MMDET),
    "conditional_detr_r50": conditional_detr(R50),
    "conditional_detr_r101": conditional_detr(R101),
    "conditional_detr_dc5_r50": conditional_detr(DC5_R50),
    "dab_detr_r50": dab_detr(R50),
    "dab_detr_r50_3pat": dab_detr(R50, 3),
    "dab_detr_r101": dab_detr(R101),
    "dab_detr_dc5_r50": dab_detr(DC5_R50),
    "dn_detr_r50": dn_detr(R50),
    "dn_detr_dc5_r50_3pat": dn_detr(DC5_R50, 3),
    "dn_detr_r101": dn_detr(R101),
    "dino_r50_4scale": dino(R50),
    "dino_r50_5scale": dino(R50, levels=5),
    "dino_swinl_4scale": dino(SwinConfig(size="l", outputs=3)),
    "smca_detr_r50_single_scale": Official(SMCAConfig(), SMCA, 92),
    "smca_detr_r50_new_multi_scale": Official(ConvSMCAConfig(), CONV_SMCA, 92),
}
"""By the name of the file in `keys/` of the recorded numbers."""

COMPUTED = ("num_batches_tracked", "relative_position_index")  # counters and tables that nothing reads


def recorded(folder: Path, name: str) -> dict:
    """Return what was recorded of one of them; `keys` has a shape by every key."""
    file = folder / "keys" / f"{name}.json"
    if not file.is_file():
        pytest.skip(f"{file} is not there; set QDET_PARITY_DIR to run this test with another folder")
    return json.loads(file.read_text())


def on_meta(shapes: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        return {key: torch.empty(shape) for key, shape in shapes.items()}


SMALL = {
    "queries": 9,
    "anchors": 9,
    "points": 9,
    "stages": 2,
    "width": 64,
    "feature_width": 64,
    "heads": 4,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "ffn": 48,
    "points_in": 6,
    "points_out": 10,
    "encoder_points": 3,
    "decoder_points": 5,
    "filters": 6,
    "roi_size": 5,
}
"""Sizes that no published detector has, by the name of the setting."""


def small(config: DetectorConfig) -> DetectorConfig:
    """The same detector with other sizes throughout."""
    sizes = {f.name: SMALL[f.name] for f in fields(config) if f.type is int and f.name in SMALL}
    return replace(config, **sizes, backbone=ResNetConfig(depth=14, width=8, norm=config.backbone.norm))


def small_checkpoint(
    folder: Path, name: str, **settings
) -> tuple[DetectorConfig, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Return a small detector of that kind, random weights for it, and them under the authors' names."""
    official, keys = FULL_SIZE[name], recorded(folder, name)["keys"]
    config = replace(small(official.detector), **settings)
    ours = config.build(official.classes).state_dict()
    ours = {name: torch.randn_like(t) if t.is_floating_point() else t for name, t in ours.items()}
    theirs = {key: ours[new] for key in keys if (new := rename(key, official.table)) in ours}
    body = {
        k.replace("backbone.", "backbone.0.body."): t for k, t in ours.items() if k.startswith("backbone.")
    }
    return config, ours, theirs | body


_TO_DETR = (
    (r"^backbone\.", "backbone.0.body."),
    (r"^(encoder|decoder)\.(layers|norm)", r"transformer.\1.\2"),
    (r"\.attention\.update\.attention\.qkv", ".self_attn.in_proj"),
    (r"\.attention\.update\.attention\.out", ".self_attn.out_proj"),
    (r"\.attention\.norm", ".norm1"),
    (r"\.self_attention\.update\.attention\.qkv", ".self_attn.in_proj"),
    (r"\.self_attention\.update\.attention\.out", ".self_attn.out_proj"),
    (r"\.self_attention\.norm", ".norm1"),
    (r"\.cross_attention\.update\.attention\.qkv", ".multihead_attn.in_proj"),
    (r"\.cross_attention\.update\.attention\.out", ".multihead_attn.out_proj"),
    (r"\.cross_attention\.norm", ".norm2"),
    (r"\.ffn\.update\.expand", ".linear1"),
    (r"\.ffn\.update\.contract", ".linear2"),
    (r"(encoder\.layers\.\d)\.ffn\.norm", r"\1.norm2"),
    (r"\.ffn\.norm", ".norm3"),
    (r"^class_head", "class_embed"),
    (r"^box_head", "bbox_embed"),
    (r"^projection", "input_proj"),
    (r"^decoder\.position", "query_embed"),
)


def as_detrs_authors(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Give a DETR's weights the names that its authors save them under; needs no record of theirs."""
    return {
        functools.reduce(lambda name, row: re.sub(*row, name), _TO_DETR, name): t
        for name, t in weights.items()
    }
