"""Sparse R-CNN's names to qdet's: those of its authors, in detectron2's manner, or of mmdetection's port."""

from qdet.convert.papers.detr import attention, module
from qdet.convert.rename import Table

STAGE = r"head\.head_series\.(?P<i>\d+)"
PORTED_STAGE = r"roi_head\.bbox_head\.(?P<i>\d+)"
PORTED_CONV = PORTED_STAGE + r"\.instance_interactive_conv"
OURS = r"decoder.stages.\g<i>"


def _tower(theirs: str, ours: str) -> Table:
    """Rename layers of (linear, norm, ReLU), which are numbered alike."""
    return module(theirs + r"\.(?P<layer>\d+)", ours + r".\g<layer>")


SPARSE_RCNN: Table = (
    *(row for j in range(4) for row in module(rf"backbone\.fpn_lateral{j + 2}", f"neck.lateral.{j}")),
    *(row for j in range(4) for row in module(rf"backbone\.fpn_output{j + 2}", f"neck.output.{j}")),
    (r"init_proposal_features\.weight", "decoder.content.weight"),
    (r"init_proposal_boxes\.weight", "decoder.first_boxes_cxcywh.weight"),
    *attention(STAGE + r"\.self_attn", OURS + ".attention.update.attention"),
    *module(STAGE + r"\.norm1", OURS + ".attention.norm"),
    *module(STAGE + r"\.inst_interact\.dynamic_layer", OURS + ".interaction.update.weights"),
    *module(STAGE + r"\.inst_interact\.norm1", OURS + ".interaction.update.norms.0"),
    *module(STAGE + r"\.inst_interact\.norm2", OURS + ".interaction.update.norms.1"),
    *module(STAGE + r"\.inst_interact\.out_layer", OURS + ".interaction.update.out"),
    *module(STAGE + r"\.inst_interact\.norm3", OURS + ".interaction.update.out_norm"),
    *module(STAGE + r"\.norm2", OURS + ".interaction.norm"),
    *module(STAGE + r"\.linear1", OURS + ".ffn.update.expand"),
    *module(STAGE + r"\.linear2", OURS + ".ffn.update.contract"),
    *module(STAGE + r"\.norm3", OURS + ".ffn.norm"),
    *_tower(STAGE + r"\.cls_module", OURS + ".class_tower"),
    *_tower(STAGE + r"\.reg_module", OURS + ".box_tower"),
    *module(STAGE + r"\.class_logits", OURS + ".class_head"),
    *module(STAGE + r"\.bboxes_delta", OURS + ".box_head"),
)
"""PeizeSun/SparseR-CNN."""

SPARSE_RCNN_MMDET: Table = (
    *module(r"neck\.lateral_convs\.(?P<j>\d+)\.conv", r"neck.lateral.\g<j>"),
    *module(r"neck\.fpn_convs\.(?P<j>\d+)\.conv", r"neck.output.\g<j>"),
    (r"rpn_head\.init_proposal_features\.weight", "decoder.content.weight"),
    (r"rpn_head\.init_proposal_bboxes\.weight", "decoder.first_boxes_cxcywh.weight"),
    *attention(PORTED_STAGE + r"\.attention\.attn", OURS + ".attention.update.attention"),
    *module(PORTED_STAGE + r"\.attention_norm", OURS + ".attention.norm"),
    *module(PORTED_CONV + r"\.dynamic_layer", OURS + ".interaction.update.weights"),
    *module(PORTED_CONV + r"\.norm_in", OURS + ".interaction.update.norms.0"),
    *module(PORTED_CONV + r"\.norm_out", OURS + ".interaction.update.norms.1"),
    *module(PORTED_CONV + r"\.fc_layer", OURS + ".interaction.update.out"),
    *module(PORTED_CONV + r"\.fc_norm", OURS + ".interaction.update.out_norm"),
    *module(PORTED_STAGE + r"\.instance_interactive_conv_norm", OURS + ".interaction.norm"),
    *module(PORTED_STAGE + r"\.ffn\.layers\.0\.0", OURS + ".ffn.update.expand"),
    *module(PORTED_STAGE + r"\.ffn\.layers\.1", OURS + ".ffn.update.contract"),
    *module(PORTED_STAGE + r"\.ffn_norm", OURS + ".ffn.norm"),
    *_tower(PORTED_STAGE + r"\.cls_fcs", OURS + ".class_tower"),
    *_tower(PORTED_STAGE + r"\.reg_fcs", OURS + ".box_tower"),
    *module(PORTED_STAGE + r"\.fc_cls", OURS + ".class_head"),
    *module(PORTED_STAGE + r"\.fc_reg", OURS + ".box_head"),
)
"""open-mmlab/mmdetection's port; its backbone trains the weights of its batch norms (`norm="eval"`)."""
