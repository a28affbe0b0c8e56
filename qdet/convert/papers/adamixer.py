"""AdaMixer's names (MCG-NJU/AdaMixer, on mmdetection) to qdet's."""

from qdet.convert.rename import Table

_STAGE = r"roi_head\.bbox_head\.(\d+)\."

ADAMIXER: Table = (
    (r"neck\.lateral_convs\.(\d+)\.conv\.(weight|bias)", r"neck.lateral.\1.\2"),
    (r"neck\.gn_out\.(weight|bias)", r"neck.norm.\1"),
    (r"rpn_head\.init_proposal_bboxes\.weight", "decoder.first_boxes_cxcywh"),
    (r"rpn_head\.init_content_features\.weight", "decoder.content.weight"),
    *(
        (_STAGE + pattern, r"decoder.stages.\1." + name)
        for pattern, name in (
            (r"iof_tau", "attention.overlap_scale"),
            (r"attention\.attn\.in_proj_(weight|bias)", r"attention.qkv.\2"),
            (r"attention\.attn\.out_proj\.(weight|bias)", r"attention.out.\2"),
            (r"(attention_norm|ffn_norm)\.(weight|bias)", r"\2.\3"),
            (r"sampling_n_mixing\.sampling_offset_generator\.0\.(weight|bias)", r"sampling.offsets.\2"),
            (
                r"sampling_n_mixing\.adaptive_mixing\.parameter_generator\.0\.(weight|bias)",
                r"mixing.weights.\2",
            ),
            (r"sampling_n_mixing\.adaptive_mixing\.out_proj\.(weight|bias)", r"mixing.out.\2"),
            (r"sampling_n_mixing\.norm\.(weight|bias)", r"mixing_norm.\2"),
            (r"ffn\.layers\.0\.0\.(weight|bias)", r"ffn.expand.\2"),
            (r"ffn\.layers\.1\.(weight|bias)", r"ffn.contract.\2"),
            (r"cls_fcs\.(\d+)\.(weight|bias)", r"class_tower.\2.\3"),
            (r"reg_fcs\.(\d+)\.(weight|bias)", r"box_tower.\2.\3"),
            (r"fc_cls\.(weight|bias)", r"class_head.\2"),
            (r"fc_reg\.(weight|bias)", r"box_head.\2"),
        )
    ),
)
"""MCG-NJU/AdaMixer. Initial boxes are a parameter without gradient there and a buffer here."""
