"""The authors' published models: for each recorded list of keys and shapes, the detector that it fills."""

import json
from dataclasses import dataclass, replace
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
    SMCA,
    SPARSE_RCNN,
    SPARSE_RCNN_MMDET,
    Table,
)
from qdet.detectors import (
    AdaMixerConfig,
    AnchorDETRConfig,
    ConditionalDETRConfig,
    ConvSMCAConfig,
    DABDETRConfig,
    DeformableDETRConfig,
    DetectorConfig,
    DETRConfig,
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
