"""DINO's names (IDEA-Research/DINO) to qdet's."""

import re
from collections.abc import Mapping

from torch import Tensor

from qdet.convert.papers.deformable_detr import DEFORMABLE_TRANSFORMER
from qdet.convert.papers.detr import module
from qdet.convert.rename import Table

_STORED_TWICE = r"(?:transformer\.decoder\.)?"

_CLASS_WEIGHT = re.compile(r"class_embed\.\d+\.weight")

_SHARED: Table = (
    *DEFORMABLE_TRANSFORMER,
    *module(r"transformer\.decoder\.norm", "decoder.norm"),
    *module(
        r"transformer\.decoder\.ref_point_head\.layers\.(?P<i>\d+)", r"decoder.position_head.layers.\g<i>"
    ),
    *module(r"transformer\.enc_output", "selection.projection"),
    *module(r"transformer\.enc_output_norm", "selection.norm"),
    *module(r"transformer\.enc_out_class_embed", "selection.head.class_head"),
    *module(r"transformer\.enc_out_bbox_embed\.layers\.(?P<k>\d+)", r"selection.head.box_head.layers.\g<k>"),
    (r"transformer\.tgt_embed\.weight", "selection.content.weight"),
    (r"label_enc\.weight", "labels.weight"),
)

DINO: Table = (
    *_SHARED,
    *module(_STORED_TWICE + r"class_embed\.\d+", "decoder.heads.0.class_head"),
    *module(_STORED_TWICE + r"bbox_embed\.\d+\.layers\.(?P<k>\d+)", r"decoder.heads.0.box_head.layers.\g<k>"),
)
"""As released: every layer lists the one head."""

DINO_SEPARATE_HEADS: Table = (
    *_SHARED,
    *module(_STORED_TWICE + r"class_embed\.(?P<i>\d+)", r"decoder.heads.\g<i>.class_head"),
    *module(
        _STORED_TWICE + r"bbox_embed\.(?P<i>\d+)\.layers\.(?P<k>\d+)",
        r"decoder.heads.\g<i>.box_head.layers.\g<k>",
    ),
)
"""With a head for each layer."""


def shares_heads(state: Mapping[str, Tensor]) -> bool:
    """Return whether all layers list the same head, as far as their weights tell."""
    heads = [t for key, t in state.items() if _CLASS_WEIGHT.fullmatch(key)]
    return all(head.is_meta or head.equal(heads[0]) for head in heads)
