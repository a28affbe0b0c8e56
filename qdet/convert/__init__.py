"""Authors' checkpoints to qdet's names: one module with a rename table per paper.

    state = convert(torch.load("adamixer_r50.pth", weights_only=True)["state_dict"], ADAMIXER)
    AdaMixerConfig().build(80).load_state_dict(state)

A table is a list of (pattern, name): every key of the authors' detector outside its backbone must match one
pattern whole, and no two keys may become the same name. Backbones have their own layouts in
`qdet.backbones.layouts`. `qdet convert` finds out by itself whose checkpoint it has and what
detector that fills, see `qdet.convert.recognize`.
"""

from qdet.convert.papers.adamixer import ADAMIXER
from qdet.convert.papers.anchor_detr import ANCHOR_DETR, ANCHOR_DETR_ATTENTION
from qdet.convert.papers.conditional_detr import CONDITIONAL_DETR
from qdet.convert.papers.dab_detr import DAB_DETR, fix_centers
from qdet.convert.papers.deformable_detr import DEFORMABLE_DETR, DEFORMABLE_DETR_REFINE
from qdet.convert.papers.detr import DETR
from qdet.convert.papers.dino import DINO, DINO_SEPARATE_HEADS
from qdet.convert.papers.smca import CONV_SMCA, SMCA
from qdet.convert.papers.sparse_rcnn import SPARSE_RCNN, SPARSE_RCNN_MMDET
from qdet.convert.rename import Table, convert, rename

__all__ = [
    "ADAMIXER",
    "ANCHOR_DETR",
    "ANCHOR_DETR_ATTENTION",
    "CONDITIONAL_DETR",
    "CONV_SMCA",
    "DAB_DETR",
    "DEFORMABLE_DETR",
    "DEFORMABLE_DETR_REFINE",
    "DETR",
    "DINO",
    "DINO_SEPARATE_HEADS",
    "SMCA",
    "SPARSE_RCNN",
    "SPARSE_RCNN_MMDET",
    "Table",
    "convert",
    "fix_centers",
    "rename",
]
