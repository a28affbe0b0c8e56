"""Conditional DETR's names (Atten4Vis/ConditionalDETR) to qdet's, which DAB-DETR shares in part."""

from qdet.convert.papers.detr import DECODER_FFN, DECODER_LAYER, DECODER_NORMS, ENCODER, HEADS, module
from qdet.convert.rename import Table

_SELF, _CROSS = (rf"decoder.layers.\g<i>.{which}_attention.update" for which in ("self", "cross"))

DECODER_ATTENTION: Table = (
    *module(DECODER_LAYER + r"\.sa_qcontent_proj", _SELF + ".query_content"),
    *module(DECODER_LAYER + r"\.sa_qpos_proj", _SELF + ".query_position"),
    *module(DECODER_LAYER + r"\.sa_kcontent_proj", _SELF + ".key_content"),
    *module(DECODER_LAYER + r"\.sa_kpos_proj", _SELF + ".key_position"),
    *module(DECODER_LAYER + r"\.sa_v_proj", _SELF + ".value"),
    *module(DECODER_LAYER + r"\.self_attn\.out_proj", _SELF + ".out"),
    *module(DECODER_LAYER + r"\.ca_qcontent_proj", _CROSS + ".query_content"),
    *module(DECODER_LAYER + r"\.ca_qpos_proj", _CROSS + ".query_position"),
    *module(DECODER_LAYER + r"\.ca_qpos_sine_proj", _CROSS + ".query_place"),
    *module(DECODER_LAYER + r"\.ca_kcontent_proj", _CROSS + ".key_content"),
    *module(DECODER_LAYER + r"\.ca_kpos_proj", _CROSS + ".key_position"),
    *module(DECODER_LAYER + r"\.ca_v_proj", _CROSS + ".value"),
    *module(DECODER_LAYER + r"\.cross_attn\.out_proj", _CROSS + ".out"),
    *module(r"transformer\.decoder\.query_scale\.layers\.(?P<i>\d+)", r"decoder.place_scale.layers.\g<i>"),
)
"""Conditional attention; also DAB-DETR's."""

CONDITIONAL_DETR: Table = (
    *ENCODER,
    *DECODER_ATTENTION,
    *DECODER_FFN,
    *DECODER_NORMS,
    *module(r"transformer\.decoder\.ref_point_head\.layers\.(?P<i>\d+)", r"decoder.point_head.layers.\g<i>"),
    *HEADS,
    (r"query_embed\.weight", "decoder.position.weight"),
)
"""Atten4Vis/ConditionalDETR."""
