"""The papers' loss settings; AdaMixer's are the defaults of `SetLossConfig`."""

from dataclasses import replace

from qdet.losses.set_loss import SetLossConfig

DETR_LOSS = SetLossConfig(
    scores="softmax",
    classification=1.0,
    match_classification=1.0,
    l1_format="cxcywh",
    per="objects",
)
"""DETR (ECCV 2020, section 3.1 and its authors' code)."""

FOCAL_DETR_LOSS = SetLossConfig(l1_format="cxcywh", per="objects", log_eps=1e-8)
"""Deformable DETR's (ICLR 2021), which Conditional, Efficient and Anchor DETR and SMCA share."""

DAB_DETR_LOSS = replace(FOCAL_DETR_LOSS, classification=1.0, giou_margin=1e-6)
"""DAB-DETR (ICLR 2022) matches like the others but halves the weight of classification.

Its code also guards GIoU's divisions in its own way.
"""

DINO_LOSS = DAB_DETR_LOSS
"""DINO's (ICLR 2023), also that of its denoising and encoder terms, is DAB-DETR's."""

SPARSE_RCNN_LOSS = SetLossConfig(per="objects", log_eps=1e-8)
"""Sparse R-CNN (CVPR 2021)."""

SPARSE_RCNN_SOFTMAX_LOSS = replace(SPARSE_RCNN_LOSS, scores="softmax")
"""The same with softmax classification, which its code offers too; for the detector's `scores="softmax"`."""
