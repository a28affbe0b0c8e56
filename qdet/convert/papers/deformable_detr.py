"""Deformable DETR's names (fundamentalvision/Deformable-DETR) to qdet's."""

from qdet.convert.papers.detr import DECODER_FFN, DECODER_LAYER, ENCODER_LAYER, attention, module
from qdet.convert.rename import Table


def deformable_attention(theirs: str, ours: str) -> Table:
    """Rename a multi-scale deformable attention."""
    return (
        *module(theirs + r"\.sampling_offsets", ours + ".sampling_offsets"),
        *module(theirs + r"\.attention_weights", ours + ".attention_weights"),
        *module(theirs + r"\.value_proj", ours + ".value"),
        *module(theirs + r"\.output_proj", ours + ".out"),
    )


DEFORMABLE_TRANSFORMER: Table = (
    (r"transformer\.level_embed", "encoder.level_embedding.weight"),
    *deformable_attention(ENCODER_LAYER + r"\.self_attn", r"encoder.layers.\g<i>.attention.update.attention"),
    *module(ENCODER_LAYER + r"\.norm1", r"encoder.layers.\g<i>.attention.norm"),
    *module(ENCODER_LAYER + r"\.linear1", r"encoder.layers.\g<i>.ffn.update.expand"),
    *module(ENCODER_LAYER + r"\.linear2", r"encoder.layers.\g<i>.ffn.update.contract"),
    *module(ENCODER_LAYER + r"\.norm2", r"encoder.layers.\g<i>.ffn.norm"),
    *attention(DECODER_LAYER + r"\.self_attn", r"decoder.layers.\g<i>.self_attention.update.attention"),
    *module(DECODER_LAYER + r"\.norm2", r"decoder.layers.\g<i>.self_attention.norm"),
    *deformable_attention(
        DECODER_LAYER + r"\.cross_attn", r"decoder.layers.\g<i>.cross_attention.update.attention"
    ),
    *module(DECODER_LAYER + r"\.norm1", r"decoder.layers.\g<i>.cross_attention.norm"),
    *DECODER_FFN,
    *module(r"input_proj\.(?P<i>\d+)\.0", r"neck.levels.\g<i>.conv"),
    *module(r"input_proj\.(?P<i>\d+)\.1", r"neck.levels.\g<i>.norm"),
)

DEFORMABLE_DETR: Table = (
    *DEFORMABLE_TRANSFORMER,
    (r"query_embed\.weight", "start.embedding.weight"),
    *module(r"transformer\.reference_points", "start.reference_points"),
    *module(r"class_embed\.\d+", "heads.0.class_head"),
    *module(r"bbox_embed\.\d+\.layers\.(?P<k>\d+)", r"heads.0.box_head.layers.\g<k>"),
)
"""Single- or multi-scale, without refinement: all layers share one head."""

_STORED_TWICE = r"(?:transformer\.decoder\.)?"

DEFORMABLE_DETR_REFINE: Table = (
    *DEFORMABLE_TRANSFORMER,
    (r"query_embed\.weight", "start.embedding.weight"),
    *module(r"transformer\.reference_points", "start.reference_points"),
    *module(r"transformer\.enc_output", "start.projection"),
    *module(r"transformer\.enc_output_norm", "start.norm"),
    *module(r"transformer\.pos_trans", "start.position.projection"),
    *module(r"transformer\.pos_trans_norm", "start.position.norm"),
    *module(_STORED_TWICE + r"class_embed\.(?P<i>\d+)", r"heads.\g<i>.class_head"),
    *module(
        _STORED_TWICE + r"bbox_embed\.(?P<i>\d+)\.layers\.(?P<k>\d+)", r"heads.\g<i>.box_head.layers.\g<k>"
    ),
)
"""With iterative refinement, also in two stages: every layer has its own heads."""
