"""Anchor DETR in the forms that its authors' code can train but of which they released no weights."""

from argparse import Namespace

import pytest
import torch

from qdet.backbones import ResNetConfig
from qdet.convert.files import Metadata, read
from qdet.convert.recognize import Recognized, recognize
from tests.support.published import small_checkpoint

UNREAD = {f"transformer.adapt_pos1d.{i}.weight": torch.zeros(64, 64) for i in (0, 2)}
"""What their code makes with plain attention too, and never calls."""


def found_in(tmp_path, state, **said) -> Recognized:
    torch.save({"model": state, "args": Namespace(nheads=4, **said)}, tmp_path / "them.pth")
    return recognize(*read(tmp_path / "them.pth"))


def assert_same_weights(found: Recognized, ours) -> None:
    assert found.weights.keys() == ours.keys()
    assert all(found.weights[key].equal(t) for key, t in ours.items() if "class_head" not in key)


def test_plain_attention_converts(parity_dir, tmp_path):
    config, ours, theirs = small_checkpoint(parity_dir, "anchor_detr_r50", attention="plain")
    found = found_in(tmp_path, theirs | UNREAD)
    assert found.detector == config
    assert_same_weights(found, ours)


@pytest.mark.parametrize("attention", ["row_column", "plain"])
@pytest.mark.parametrize(("asked", "points"), [(10, 9), (None, 289)])
def test_grid_anchors_convert(parity_dir, tmp_path, attention, asked, points):
    """Their grid is the square nearest to the number asked for, 300 by default, and in no tensor."""
    settings = {"anchors": "grid", "points": points, "attention": attention}
    config, ours, theirs = small_checkpoint(parity_dir, "anchor_detr_r50", **settings)
    assert not any("position" in key for key in theirs)
    found = found_in(tmp_path, theirs, **({"num_query_position": asked} if asked else {}))
    assert found.detector == config
    assert_same_weights(found, ours)


def test_three_levels_convert(parity_dir):
    backbone = ResNetConfig(depth=14, width=8, dilate_c5=True)
    config, ours, theirs = small_checkpoint(parity_dir, "anchor_detr_r50", levels=3, backbone=backbone)
    theirs |= {key: ours[name] for key, name in of_three_levels(config).items()}
    found = recognize(theirs, Metadata(heads=4))
    assert found.detector == config
    assert_same_weights(found, ours)


def of_three_levels(config) -> dict[str, str]:
    """Their names of what only three levels need, to ours."""
    names = {"transformer.level_embed.weight": "encoder.level.weight"}
    parts = ("weight", "bias")
    for part in parts:
        for i in (1, 2):
            names[f"input_proj.{i}.0.{part}"] = f"neck.{i}.conv.{part}"
            names[f"input_proj.{i}.1.{part}"] = f"neck.{i}.norm.{part}"
        for i in range(config.decoder_layers):
            cross = f"decoder.layers.{i}.cross_attention.update"
            names[f"transformer.decoder_layers.{i}.level_fc.{part}"] = f"{cross}.fuse.{part}"
        theirs, ours = "transformer.encoder_layers_level.0", "encoder.level_layers.0.layer"
        attention = f"{ours}.attention.update.attention"
        names[f"{theirs}.self_attn_level.in_proj_{part}"] = f"{attention}.qkv_{part}"
        names[f"{theirs}.self_attn_level.out_proj.{part}"] = f"{attention}.out.{part}"
        names[f"{theirs}.norm1.{part}"] = f"{ours}.attention.norm.{part}"
        names[f"{theirs}.ffn.linear1.{part}"] = f"{ours}.ffn.update.expand.{part}"
        names[f"{theirs}.ffn.linear2.{part}"] = f"{ours}.ffn.update.contract.{part}"
        names[f"{theirs}.ffn.norm2.{part}"] = f"{ours}.ffn.norm.{part}"
    return names
