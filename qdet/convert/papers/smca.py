"""SMCA-DETR's names (gaopengcuhk/SMCA-DETR) to qdet's, for the models that the authors released."""

from qdet.convert.papers.detr import (
    DECODER_FFN,
    DECODER_LAYER,
    DECODER_NORMS,
    ENCODER,
    ENCODER_LAYER,
    HEADS,
    attention,
    module,
)
from qdet.convert.rename import Table

_LAYER = r"decoder.layers.\g<i>"

DECODER: Table = (
    *attention(DECODER_LAYER + r"\.self_attn", _LAYER + ".self_attention.update.attention"),
    *module(DECODER_LAYER + r"\.norm4", _LAYER + ".guide"),
    *module(DECODER_LAYER + r"\.point1\.layers\.(?P<j>\d+)", r"decoder.center_head.layers.\g<j>"),
    *module(DECODER_LAYER + r"\.point2", _LAYER + ".prior.offset"),
    *module(DECODER_LAYER + r"\.point3", _LAYER + ".prior.sharpness"),
    *DECODER_FFN,
    *DECODER_NORMS,
    (r"query_embed\.weight", "decoder.position.weight"),
)
"""The decoder, but for its attention to the image. Its first layer alone has a `point1`."""

SMCA: Table = (
    *ENCODER,
    *DECODER,
    *attention(DECODER_LAYER + r"\.multihead_attn", _LAYER + ".cross_attention.update.attention"),
    *HEADS,
)
"""The single-scale model."""

_EXCHANGE = r"encoder.\g<i>.attention.update"

CONV_SMCA: Table = (
    *module(r"input_proj_512", "neck.projections.0"),
    *module(r"input_proj_1024", "neck.projections.1"),
    *module(r"input_proj_2048", "neck.projections.2"),
    *module(r"input_proj_2048_3", "neck.coarser"),
    (r"transformer\.level_embed", "neck.scale.weight"),
    *module(ENCODER_LAYER + r"\.conv_1", _EXCHANGE + ".enter"),
    *(
        row
        for index, stride in enumerate((8, 16, 32, 64))
        for row in module(rf"{ENCODER_LAYER}\.self_attn_{stride}", rf"{_EXCHANGE}.within.{index}")
    ),
    *(
        row
        for theirs, ours in (("high_to_low", "down"), ("low_to_high", "up"))
        for index in range(3)
        for row in module(rf"{ENCODER_LAYER}\.{theirs}_{index + 1}", rf"{_EXCHANGE}.{ours}.{index}")
    ),
    *module(ENCODER_LAYER + r"\.conv_2", _EXCHANGE + ".leave"),
    *module(ENCODER_LAYER + r"\.norm1", r"encoder.\g<i>.attention.norm"),
    *module(ENCODER_LAYER + r"\.linear1", r"encoder.\g<i>.ffn.update.expand"),
    *module(ENCODER_LAYER + r"\.linear2", r"encoder.\g<i>.ffn.update.contract"),
    *module(ENCODER_LAYER + r"\.norm2", r"encoder.\g<i>.ffn.norm"),
    *module(r"transformer\.conv", "reduction"),
    *DECODER,
    *attention(DECODER_LAYER + r"\.multihead_attn", _LAYER + ".cross_attention.update"),
    *module(DECODER_LAYER + r"\.point4", _LAYER + ".selection"),
    *module(r"class_embed", "class_head"),
    *module(r"bbox_embed\.layers\.(?P<i>\d+)", r"box_head.layers.\g<i>"),
)
"""The convolutional multi-scale model of `Multi_scale_SMCA.zip`."""
