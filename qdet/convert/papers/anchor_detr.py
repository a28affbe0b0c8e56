"""Anchor DETR's names (megvii-research/AnchorDETR) to qdet's."""

from collections.abc import Mapping

from torch import Tensor

from qdet.convert.papers.detr import attention, module
from qdet.convert.rename import Table

_ENCODER = r"transformer\.encoder_layers\.(?P<i>\d+)"
_LEVEL = r"transformer\.encoder_layers_level\.(?P<i>\d+)"
_DECODER = r"transformer\.decoder_layers\.(?P<i>\d+)"
_CROSS = r"decoder.layers.\g<i>.cross_attention"


def _ffn(theirs: str, ours: str) -> Table:
    return (
        *module(theirs + r"\.ffn\.linear1", ours + ".ffn.update.expand"),
        *module(theirs + r"\.ffn\.linear2", ours + ".ffn.update.contract"),
        *module(theirs + r"\.ffn\.norm2", ours + ".ffn.norm"),
    )


_SHARED: Table = (
    *attention(_ENCODER + r"\.self_attn", r"encoder.layers.\g<i>.attention.update.attention"),
    *module(_ENCODER + r"\.norm1", r"encoder.layers.\g<i>.attention.norm"),
    *_ffn(_ENCODER, r"encoder.layers.\g<i>"),
    *attention(_LEVEL + r"\.self_attn_level", r"encoder.level_layers.\g<i>.layer.attention.update.attention"),
    *module(_LEVEL + r"\.norm1", r"encoder.level_layers.\g<i>.layer.attention.norm"),
    *_ffn(_LEVEL, r"encoder.level_layers.\g<i>.layer"),
    (r"transformer\.level_embed\.weight", "encoder.level.weight"),
    *attention(_DECODER + r"\.self_attn", r"decoder.layers.\g<i>.self_attention.update.attention"),
    *module(_DECODER + r"\.norm2", r"decoder.layers.\g<i>.self_attention.norm"),
    *attention(_DECODER + r"\.cross_attn", _CROSS + ".update.attention.attention"),
    *module(_DECODER + r"\.norm1", _CROSS + ".norm"),
    *module(_DECODER + r"\.level_fc", _CROSS + ".update.fuse"),
    *_ffn(_DECODER, r"decoder.layers.\g<i>"),
    (r"transformer\.pattern\.weight", "decoder.patterns.weight"),
    (r"transformer\.position\.weight", "decoder.points.weight"),
    *module(r"transformer\.adapt_pos2d\.0", "embed_point.layers.0"),
    *module(r"transformer\.adapt_pos2d\.2", "embed_point.layers.1"),
    *module(r"transformer\.class_embed\.\d+", "class_head"),
    *module(r"transformer\.bbox_embed\.\d+\.layers\.(?P<i>\d+)", r"box_head.layers.\g<i>"),
    *module(r"input_proj\.(?P<i>\d+)\.0", r"neck.\g<i>.conv"),
    *module(r"input_proj\.(?P<i>\d+)\.1", r"neck.\g<i>.norm"),
)

ANCHOR_DETR: Table = (
    *_SHARED,
    *module(r"transformer\.adapt_pos1d\.0", "embed_axis.layers.0"),
    *module(r"transformer\.adapt_pos1d\.2", "embed_axis.layers.1"),
)
"""megvii-research/AnchorDETR. Its decoder layers number their norms as Deformable DETR's do."""

ANCHOR_DETR_ATTENTION: Table = (*_SHARED, (r"transformer\.adapt_pos1d\..*", ""))
"""The same with plain attention, where the embedding of single coordinates is never used."""


def attends_plainly(state: Mapping[str, Tensor]) -> bool:
    """Return whether cross-attention is plain: it then has three projections, row-column attention five."""
    rows, width = state["transformer.decoder_layers.0.cross_attn.in_proj_weight"].shape
    return rows == 3 * width
