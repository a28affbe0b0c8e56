"""DAB-DETR's names (IDEA-Research/DAB-DETR) to qdet's."""

from collections.abc import Mapping

import torch
from torch import Tensor

from qdet.convert.papers.conditional_detr import DECODER_ATTENTION
from qdet.convert.papers.detr import DECODER_FFN, DECODER_LAYER, DECODER_NORMS, ENCODER, ENCODER_LAYER, module
from qdet.convert.rename import Table

_ANCHORS = "decoder.queries.boxes.weight"

DAB_DETR: Table = (
    *ENCODER,
    *module(ENCODER_LAYER + r"\.activation", r"encoder.layers.\g<i>.ffn.update.activation"),
    *module(r"transformer\.encoder\.query_scale\.layers\.(?P<i>\d+)", r"encoder.position_scale.layers.\g<i>"),
    *DECODER_ATTENTION,
    *DECODER_FFN,
    *module(DECODER_LAYER + r"\.activation", r"decoder.layers.\g<i>.ffn.update.activation"),
    *DECODER_NORMS,
    *module(
        r"transformer\.decoder\.ref_point_head\.layers\.(?P<i>\d+)", r"decoder.position_head.layers.\g<i>"
    ),
    *module(r"transformer\.decoder\.ref_anchor_head\.layers\.(?P<i>\d+)", r"decoder.size_head.layers.\g<i>"),
    *module(r"(transformer\.decoder\.)?bbox_embed\.layers\.(?P<i>\d+)", r"decoder.box_head.layers.\g<i>"),
    *module(r"class_embed", "class_head"),
    *module(r"input_proj", "projection"),
    (r"refpoint_embed\.weight", _ANCHORS),
    (r"transformer\.patterns\.weight", "decoder.queries.patterns.weight"),
    (r"label_enc\.weight", "decoder.queries.labels.weight"),
)
"""IDEA-Research/DAB-DETR, whose decoder and detector both list the one box head."""


def fix_centers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Split the anchors of a converted checkpoint for a detector with fixed centres."""
    anchors = state[_ANCHORS]
    return {**state, "decoder.queries.centers": anchors[:, :2].clone(), _ANCHORS: anchors[:, 2:].clone()}


def join_centers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo `fix_centers`; other weights stay as they are."""
    joined = dict(state)
    centers = joined.pop("decoder.queries.centers", None)
    if centers is not None:
        joined[_ANCHORS] = torch.cat((centers, joined[_ANCHORS]), dim=-1)
    return joined
