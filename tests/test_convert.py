"""Converting authors' checkpoints: every key of theirs is used once and every one of ours is filled.

`FULL_SIZE` names, for each recorded list of keys and shapes, the detector that those weights are of. A new
detector is tested by its lines there.
"""

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
    convert,
    rename,
)
from qdet.convert.coco import COCO
from qdet.convert.files import Told
from qdet.convert.recognize import recognize
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
from qdet.errors import CheckpointError

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


# Of DETR with pre-norm and Anchor DETR with three levels, which no authors released.
UNPUBLISHED = (
    r"transformer\.encoder\.norm",
    r"transformer\.encoder_layers_level",
    r"transformer\.level_embed\.weight",
    r"transformer\.decoder_layers\.(?P<i>\d+)\.level_fc",
)


def recorded(folder: Path, name: str) -> dict:
    return json.loads((folder / "keys" / f"{name}.json").read_text())


def on_meta(shapes: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        return {key: torch.empty(shape) for key, shape in shapes.items()}


@pytest.mark.parametrize("name", FULL_SIZE)
def test_every_full_size_checkpoint_fills_its_detector(parity_dir, name):
    official = FULL_SIZE[name]
    keys = recorded(parity_dir, name)["keys"]
    state = convert(on_meta(keys), official.table)
    with torch.device("meta"):
        ours = official.detector.build(official.classes).state_dict()
    assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in ours.items()}


@pytest.mark.parametrize("name", FULL_SIZE)
def test_every_key_is_used_once_or_shares_its_tensor_or_is_dropped(parity_dir, name):
    table, facts = FULL_SIZE[name].table, recorded(parity_dir, name)
    aliases = facts["shared_parameter_aliases"]
    left = [key for key in facts["keys"] if key not in aliases and not key.endswith(COMPUTED)]
    state = convert(on_meta(facts["keys"]), table)
    assert len(state) == len(left) - sum(rename(key, table) == "" for key in left)
    for alias, key in aliases.items():
        assert rename(alias, table) == rename(key, table) != "", alias


@pytest.mark.parametrize("name", {official.table: name for name, official in FULL_SIZE.items()}.values())
def test_each_row_of_a_table_serves(parity_dir, name):
    table = FULL_SIZE[name].table
    same = [other for other, official in FULL_SIZE.items() if official.table == table]
    keys = {key for other in same for key in recorded(parity_dir, other)["keys"]}
    for row in table:
        assert row[0].startswith(UNPUBLISHED) or any(rename(key, (row,)) is not None for key in keys), row


@pytest.mark.parametrize("name", FULL_SIZE)
def test_is_recognised_with_its_settings(parity_dir, name):
    official, keys = FULL_SIZE[name], recorded(parity_dir, name)["keys"]
    dilated = getattr(official.detector.backbone, "dilate_c5", False)
    found = recognize(on_meta(keys), Told(dilated=dilated))
    assert found.detector == official.detector
    assert found.categories == COCO


def test_values_arrive_where_they_belong():
    tau = torch.rand(8)
    state = convert({"module.roi_head.bbox_head.4.iof_tau": tau}, ADAMIXER)
    assert state == {"decoder.stages.4.attention.overlap_scale": tau}


def test_foreign_keys_are_named():
    with pytest.raises(CheckpointError, match=r"it has: transformer\.level_embed"):
        convert({"transformer.level_embed": torch.zeros(4)}, ADAMIXER)


def test_aliases_of_one_tensor_become_one():
    table = ((r"a\.\d+", "a"), (r"b", ""))
    one = {"a.1": torch.ones(1), "a.2": torch.ones(1), "b": torch.zeros(1)}
    assert convert(one, table) == {"a": torch.ones(1)}
    with pytest.raises(CheckpointError, match=r"a\.2 should be another name"):
        convert(one | {"a.2": torch.zeros(1)}, table)
