"""The checkpoints that can be converted: how each is recognised, and how it becomes qdet's."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from qdet.backbones import BackboneConfig
from qdet.convert import sizes
from qdet.convert.files import Metadata
from qdet.convert.papers.adamixer import ADAMIXER
from qdet.convert.papers.anchor_detr import ANCHOR_DETR, ANCHOR_DETR_ATTENTION, attends_plainly
from qdet.convert.papers.conditional_detr import CONDITIONAL_DETR
from qdet.convert.papers.dab_detr import DAB_DETR, fix_centers
from qdet.convert.papers.deformable_detr import DEFORMABLE_DETR, DEFORMABLE_DETR_REFINE
from qdet.convert.papers.detr import DETR
from qdet.convert.papers.dino import DINO, DINO_SEPARATE_HEADS, shares_heads
from qdet.convert.papers.smca import CONV_SMCA, SMCA
from qdet.convert.papers.sparse_rcnn import SPARSE_RCNN, SPARSE_RCNN_MMDET
from qdet.convert.rename import Table
from qdet.convert.shapes import Shapes
from qdet.data.image.pipelines import Pipeline
from qdet.detectors import DetectorConfig
from qdet.layers.conv.batch_norm import Norm


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The checkpoints of one detector as its authors save them."""

    title: str
    marks: tuple[str, ...]
    """Names that together occur in no other detector's checkpoint."""
    told_by: Callable[[Mapping[str, Tensor]], bool] = lambda state: True
    """Distinguishes it from others with the same names."""
    table: Table
    config: Callable[[Shapes, Metadata, BackboneConfig], DetectorConfig]
    pipeline: Pipeline = "detr"
    """How the authors prepared images."""
    norm: Norm = "frozen"
    """Batch norm of the authors' backbone."""
    ranks: bool = False
    """Whether the first row of the last class head separates objects of any class from background."""
    last_row: Literal["class", "no object", "dead"] = "class"
    """Meaning of a last row in addition to the classes', if there is one."""
    finish: Callable[[dict[str, Tensor], Metadata], dict[str, Tensor]] = lambda weights, metadata: weights
    """Final changes to renamed tensors, given the file's metadata."""


_DEFORMABLE = "transformer.encoder.layers.0.self_attn.sampling_offsets.weight"
_ANCHOR = ("transformer.pattern.weight", "transformer.decoder_layers.0.cross_attn.in_proj_weight")

# DETR's descendants share its names, hence the more specific ones first.
LAYOUTS: tuple[Layout, ...] = (
    Layout(
        title="AdaMixer (MCG-NJU/AdaMixer)",
        marks=("rpn_head.init_content_features.weight", "roi_head.bbox_head.0.iof_tau"),
        table=ADAMIXER,
        config=sizes.adamixer,
        pipeline="mmdet",
        norm="eval",
    ),
    Layout(
        title="Sparse R-CNN (PeizeSun/SparseR-CNN)",
        marks=("init_proposal_features.weight", "head.head_series.0.bboxes_delta.weight"),
        table=SPARSE_RCNN,
        config=sizes.sparse_rcnn,
        pipeline="detectron2",
    ),
    Layout(
        title="Sparse R-CNN (open-mmlab/mmdetection)",
        marks=("rpn_head.init_proposal_features.weight", "roi_head.bbox_head.0.fc_reg.weight"),
        table=SPARSE_RCNN_MMDET,
        config=sizes.sparse_rcnn,
        pipeline="mmdet",
        norm="eval",
    ),
    Layout(
        title="DINO (IDEA-Research/DINO)",
        marks=(_DEFORMABLE, "transformer.enc_out_class_embed.weight"),
        told_by=shares_heads,
        table=DINO,
        config=sizes.dino,
    ),
    Layout(
        title="DINO with a head for each layer (IDEA-Research/DINO)",
        marks=(_DEFORMABLE, "transformer.enc_out_class_embed.weight"),
        table=DINO_SEPARATE_HEADS,
        config=sizes.dino,
    ),
    Layout(
        title="Deformable DETR with two stages (fundamentalvision/Deformable-DETR)",
        marks=(_DEFORMABLE, "transformer.pos_trans.weight"),
        table=DEFORMABLE_DETR_REFINE,
        config=sizes.deformable_detr,
        ranks=True,
    ),
    Layout(
        title="Deformable DETR with refinement (fundamentalvision/Deformable-DETR)",
        marks=(_DEFORMABLE, "transformer.decoder.bbox_embed.0.layers.0.weight"),
        table=DEFORMABLE_DETR_REFINE,
        config=sizes.deformable_detr,
    ),
    Layout(
        title="Deformable DETR (fundamentalvision/Deformable-DETR)",
        marks=(_DEFORMABLE, "query_embed.weight", "class_embed.0.weight"),
        table=DEFORMABLE_DETR,
        config=sizes.deformable_detr,
    ),
    Layout(
        title="Anchor DETR with plain attention (megvii-research/AnchorDETR)",
        marks=_ANCHOR,
        told_by=attends_plainly,
        table=ANCHOR_DETR_ATTENTION,
        config=sizes.anchor_detr,
    ),
    Layout(
        title="Anchor DETR (megvii-research/AnchorDETR)",
        marks=_ANCHOR,
        table=ANCHOR_DETR,
        config=sizes.anchor_detr,
    ),
    Layout(
        title="DN-DETR (IDEA-Research/DN-DETR)",
        marks=(
            "refpoint_embed.weight",
            "label_enc.weight",
            "transformer.decoder.ref_anchor_head.layers.0.weight",
        ),
        table=DAB_DETR,
        config=sizes.dab_detr,
    ),
    Layout(
        title="DAB-DETR (IDEA-Research/DAB-DETR)",
        marks=("refpoint_embed.weight", "transformer.decoder.ref_anchor_head.layers.0.weight"),
        table=DAB_DETR,
        config=sizes.dab_detr,
        finish=lambda weights, metadata: fix_centers(weights) if metadata.fixed_centers else weights,
    ),
    Layout(
        title="Conditional DETR (Atten4Vis/ConditionalDETR)",
        marks=("query_embed.weight", "transformer.decoder.ref_point_head.layers.0.weight"),
        table=CONDITIONAL_DETR,
        config=sizes.conditional_detr,
    ),
    Layout(
        title="SMCA-DETR (gaopengcuhk/SMCA-DETR)",
        marks=("input_proj.weight", "transformer.decoder.layers.0.point2.weight"),
        table=SMCA,
        config=sizes.smca,
        last_row="dead",
    ),
    Layout(
        title="SMCA-DETR of several scales (gaopengcuhk/SMCA-DETR)",
        marks=("input_proj_2048_3.weight", "transformer.encoder.layers.0.high_to_low_1.weight"),
        table=CONV_SMCA,
        config=sizes.conv_smca,
        last_row="dead",
    ),
    Layout(
        title="DETR (facebookresearch/detr)",
        marks=("query_embed.weight", "transformer.decoder.layers.0.multihead_attn.in_proj_weight"),
        table=DETR,
        config=sizes.detr,
        last_row="no object",
    ),
)
