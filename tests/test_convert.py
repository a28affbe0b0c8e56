"""Converting authors' checkpoints: every key of theirs is used once and every one of ours is filled."""

import json

import pytest
import torch

from qdet.backbones import ResNetConfig, ResNeXtDCNConfig, SwinConfig
from qdet.convert import ADAMIXER, convert, rename
from qdet.detectors import AdaMixerConfig
from qdet.errors import CheckpointError

BACKBONES = {
    "r50": ResNetConfig(depth=50, norm="eval"),
    "r101": ResNetConfig(depth=101, norm="eval"),
    "dx101": ResNeXtDCNConfig(),
    "swin_s": SwinConfig(size="s"),
    "swin_t": SwinConfig(size="t"),
}
COMPUTED = ("num_batches_tracked", "relative_position_index")  # counters and tables that nothing reads


def test_every_full_size_checkpoint_fills_its_detector(parity_dir):
    files = sorted((parity_dir / "keys").glob("adamixer_*.json"))
    assert files
    for file in files:
        name = file.stem.removeprefix("adamixer_")
        backbone, _, queries = name.rpartition("_")
        shapes = json.loads(file.read_text())["keys"]
        with torch.device("meta"):
            official = {key: torch.empty(shape) for key, shape in shapes.items()}
            detector = AdaMixerConfig(backbone=BACKBONES[backbone], queries=int(queries[:-1])).build(80)
        state = convert(official, ADAMIXER)
        ours = detector.state_dict()
        assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in ours.items()}
        used = [key for key in shapes if not key.endswith(COMPUTED)]
        assert len(used) == len(state)


def test_each_row_of_the_table_serves(parity_dir):
    shapes = json.loads((parity_dir / "keys" / "adamixer_r50_100q.json").read_text())["keys"]
    heads = [key for key in shapes if not key.startswith("backbone.")]
    assert all(rename(key, ADAMIXER) for key in heads)
    for row in ADAMIXER:
        assert any(rename(key, (row,)) for key in heads), row


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
