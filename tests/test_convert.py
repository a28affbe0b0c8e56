"""Converting authors' checkpoints: every key of theirs is used once and every one of ours is filled.

A new detector is tested by its lines in `tests.support.published`.
"""

import re

import pytest
import torch

from qdet.convert import ADAMIXER, convert, rename
from qdet.convert.classes import COCO
from qdet.convert.files import Metadata
from qdet.convert.recognize import recognize
from qdet.errors import CheckpointError
from tests.support.published import COMPUTED, FULL_SIZE, on_meta, recorded
from tests.support.shapes import shapes_of

# Of DETR with pre-norm and Anchor DETR with three levels, which no authors released.
UNPUBLISHED = (
    r"transformer\.encoder\.norm",
    r"transformer\.encoder_layers_level",
    r"transformer\.level_embed\.weight",
    r"transformer\.decoder_layers\.(?P<i>\d+)\.level_fc",
)


@pytest.mark.parametrize("name", FULL_SIZE)
def test_every_full_size_checkpoint_fills_its_detector(parity_dir, name):
    official = FULL_SIZE[name]
    keys = recorded(parity_dir, name)["keys"]
    state = convert(on_meta(keys), official.table)
    ours = shapes_of(official.detector, official.classes).state_dict()
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
def test_every_row_of_a_table_is_used(parity_dir, name):
    table = FULL_SIZE[name].table
    same = [other for other, official in FULL_SIZE.items() if official.table == table]
    keys = {key for other in same for key in recorded(parity_dir, other)["keys"]}
    for row in table:
        assert row[0].startswith(UNPUBLISHED) or any(rename(key, (row,)) is not None for key in keys), row


@pytest.mark.parametrize("name", FULL_SIZE)
def test_is_recognised_with_its_settings(parity_dir, name):
    official, keys = FULL_SIZE[name], recorded(parity_dir, name)["keys"]
    dilated = getattr(official.detector.backbone, "dilate_c5", False)
    found = recognize(on_meta(keys), Metadata(dilated=dilated))
    assert found.detector == official.detector
    assert found.categories == COCO
    authors = {"AdaMixerConfig": "mmdet", "SparseRCNNConfig": "detectron2"}
    wanted = authors.get(type(found.detector).__name__, "detr")
    assert found.pipeline == ("mmdet" if "mmdetection" in found.title else wanted)


@pytest.mark.parametrize("name", ["dn_detr_r50", "dino_r50_4scale"])
def test_rows_of_embedded_labels_are_those_of_the_class_heads(parity_dir, name):
    """Of COCO's 91 ids those of its classes, and "unknown" last; each row holds its own number."""
    state = on_meta(recorded(parity_dir, name)["keys"])
    for key, meta in state.items():
        if key.startswith("label_enc") or re.search(r"class_embed.*weight$", key):
            state[key] = torch.arange(len(meta)).unsqueeze(1).expand(meta.shape).float()
    found = recognize(state, Metadata())
    (embedding,) = [t for key, t in found.weights.items() if key.endswith("labels.weight")]
    heads = [t for key, t in found.weights.items() if key.endswith("class_head.weight")]
    assert embedding[:, 0].tolist() == [*COCO.ids, 91]
    assert len(heads) == (2 if name.startswith("dino") else 1)
    assert all(head[:, 0].tolist() == list(COCO.ids) for head in heads)


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
    with pytest.raises(CheckpointError, match=r"a\.2 should be an alias"):
        convert(one | {"a.2": torch.zeros(1)}, table)
