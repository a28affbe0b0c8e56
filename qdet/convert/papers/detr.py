"""DETR's names (facebookresearch/detr) to qdet's, and the parts of them that its descendants share."""

from qdet.convert.rename import Table


def attention(theirs: str, ours: str) -> Table:
    """Rename a `torch.nn.MultiheadAttention`; patterns may have groups, which `ours` refers to by name."""
    return (
        (theirs + r"\.in_proj_(?P<part>weight|bias)", ours + r".qkv_\g<part>"),
        (theirs + r"\.out_proj\.(?P<part>weight|bias)", ours + r".out.\g<part>"),
    )


def module(theirs: str, ours: str) -> Table:
    """Rename a module with a weight, a bias or both."""
    return ((theirs + r"\.(?P<part>weight|bias)", ours + r".\g<part>"),)


ENCODER_LAYER = r"transformer\.encoder\.layers\.(?P<i>\d+)"
DECODER_LAYER = r"transformer\.decoder\.layers\.(?P<i>\d+)"

ENCODER: Table = (
    *attention(ENCODER_LAYER + r"\.self_attn", r"encoder.layers.\g<i>.attention.update.attention"),
    *module(ENCODER_LAYER + r"\.norm1", r"encoder.layers.\g<i>.attention.norm"),
    *module(ENCODER_LAYER + r"\.linear1", r"encoder.layers.\g<i>.ffn.update.expand"),
    *module(ENCODER_LAYER + r"\.linear2", r"encoder.layers.\g<i>.ffn.update.contract"),
    *module(ENCODER_LAYER + r"\.norm2", r"encoder.layers.\g<i>.ffn.norm"),
)
"""DETR's encoder; also Conditional DETR's, DAB-DETR's and SMCA's."""

DECODER_FFN: Table = (
    *module(DECODER_LAYER + r"\.linear1", r"decoder.layers.\g<i>.ffn.update.expand"),
    *module(DECODER_LAYER + r"\.linear2", r"decoder.layers.\g<i>.ffn.update.contract"),
    *module(DECODER_LAYER + r"\.norm3", r"decoder.layers.\g<i>.ffn.norm"),
)
"""The feed-forward block of DETR's decoder layers; also of its descendants."""

DECODER_NORMS: Table = (
    *module(DECODER_LAYER + r"\.norm1", r"decoder.layers.\g<i>.self_attention.norm"),
    *module(DECODER_LAYER + r"\.norm2", r"decoder.layers.\g<i>.cross_attention.norm"),
    *module(r"transformer\.decoder\.norm", "decoder.norm"),
)
"""The norms of DETR's decoder; also of Conditional DETR's, DAB-DETR's and SMCA's."""

HEADS: Table = (
    *module(r"class_embed", "class_head"),
    *module(r"bbox_embed\.layers\.(?P<i>\d+)", r"box_head.layers.\g<i>"),
    *module(r"input_proj", "projection"),
)
"""The heads that all layers share, and the 1x1 convolution after the backbone."""

DETR: Table = (
    *ENCODER,
    *module(r"transformer\.encoder\.norm", "encoder.norm"),
    *attention(DECODER_LAYER + r"\.self_attn", r"decoder.layers.\g<i>.self_attention.update.attention"),
    *attention(DECODER_LAYER + r"\.multihead_attn", r"decoder.layers.\g<i>.cross_attention.update.attention"),
    *DECODER_FFN,
    *DECODER_NORMS,
    *HEADS,
    (r"query_embed\.weight", "decoder.position.weight"),
)
"""facebookresearch/detr."""
