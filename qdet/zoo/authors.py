"""What the authors' configurations say of each published model's training, independent of the jobs here.

What a repository's defaults and its published command leave open is that of the code they call (mmdetection
2.12, detectron2).
"""

from collections.abc import Mapping
from dataclasses import replace

from qdet.zoo.official import Official

FAMILY = Official(
    source="",
    lr=1e-4,
    backbone_lr=1e-5,
    betas=(0.9, 0.999),
    weight_decay=1e-4,
    no_decay="none",
    clip_norm=0.1,
    warmup="none",
    sizes=(480, 800),
    longest=1333,
    crop=True,
    crop_longest=0,
    flip=0.5,
    filter="pillow",
    empty="kept",
    padding="images of one GPU, to 1",
    batches="at random",
    precision="fp32",
    average=0.0,
    loss=(2.0, 5.0, 2.0),
    matching=(2.0, 5.0, 2.0),
    dropout=0.1,
    norms="frozen",
)
"""What DETR's descendants have in common."""

DETR = replace(
    FAMILY,
    source="facebookresearch/detr and its paper",
    epochs=500,
    drops=(400,),
    batch=64,
    images_per_gpu=4,
    loss=(1.0, 5.0, 2.0),
    matching=(1.0, 5.0, 2.0),
)
DETR_50 = replace(DETR, source="Conditional DETR's paper", epochs=50, drops=(40,), batch=16, images_per_gpu=2)
DEFORMABLE = replace(
    FAMILY,
    source="fundamentalvision/Deformable-DETR",
    lr=2e-4,
    backbone_lr=2e-5,
    sampling_lr=2e-5,
    epochs=50,
    drops=(40,),
    batch=32,
)
CONDITIONAL = replace(
    FAMILY, source="Atten4Vis/ConditionalDETR", epochs=50, drops=(40,), batch=16, images_per_gpu=2
)
CONDITIONAL_DC5 = replace(CONDITIONAL, batch=8, images_per_gpu=1)
CONDITIONAL_108 = replace(CONDITIONAL_DC5, epochs=108, drops=(80,))
ANCHOR = replace(
    FAMILY,
    source="megvii-research/AnchorDETR",
    epochs=50,
    drops=(40,),
    batch=8,
    images_per_gpu=1,
    dropout=0.0,
)
DAB = replace(
    FAMILY,
    source="IDEA-Research/DAB-DETR",
    epochs=50,
    drops=(40,),
    batch=16,
    loss=(1.0, 5.0, 2.0),
    dropout=0.0,
)
DN = replace(DAB, source="IDEA-Research/DN-DETR", images_per_gpu=2)
DN_DC5 = replace(DN, images_per_gpu=1)
DN_DC5_12 = replace(DN_DC5, epochs=12, drops=(11,))
DINO = replace(DAB, source="IDEA-Research/DINO", epochs=12, drops=(11,), images_per_gpu=2)
DINO_24 = replace(DINO, epochs=24, drops=(20,))
DINO_36 = replace(DINO, epochs=36, drops=(30,))
SWIN_L = replace(DINO, images_per_gpu=1, norms=None, drop_path="0.2, both branches")
SMCA = replace(FAMILY, source="gaopengcuhk/SMCA-DETR", epochs=50, drops=(40,), batch=16, images_per_gpu=2)
SMCA_PAPER = replace(SMCA, source="SMCA's paper", batch=8, images_per_gpu=1)

EFFICIENT = Official(source="Efficient DETR's paper; there is no code", epochs=36)
DYNAMIC = Official(source="Dynamic DETR's paper; there is no code", epochs=12)

DETECTRON = Official(
    source="PeizeSun/SparseR-CNN",
    lr=2.5e-5,
    backbone_lr=2.5e-5,
    betas=(0.9, 0.999),
    weight_decay=1e-4,
    no_decay="none",
    clip_norm=1.0,
    warmup="1000 steps from 0.01",
    steps=270_000,
    drop_steps=(210_000, 250_000),
    batch=16,
    images_per_gpu=2,
    sizes=(480, 800),
    longest=1333,
    crop=False,
    flip=0.5,
    filter="pillow",
    empty="kept",
    padding="images of one GPU, to 32",
    batches="of like aspect on each GPU",
    precision="fp32",
    average=0.0,
    loss=(2.0, 5.0, 2.0),
    matching=(2.0, 5.0, 2.0),
    dropout=0.0,
    norms="frozen",
)
ADAMIXER = Official(
    source="MCG-NJU/AdaMixer",
    lr=2.5e-5,
    backbone_lr=2.5e-5,
    betas=(0.9, 0.999),
    weight_decay=1e-4,
    no_decay="none",
    clip_norm=1.0,
    warmup="500 steps from 0.001",
    epochs=12,
    drops=(8, 11),
    batch=16,
    images_per_gpu=2,
    sizes=(800, 800),
    longest=1333,
    crop=False,
    flip=0.5,
    filter="opencv",
    empty="left out",
    padding="images of one GPU, to 32",
    batches="of like aspect on each GPU",
    precision="fp32",
    average=0.0,
    loss=(2.0, 5.0, 2.0),
    matching=(2.0, 5.0, 2.0),
    norms="eval",
)
ADAMIXER_300 = replace(ADAMIXER, epochs=36, drops=(24, 33), sizes=(480, 800), crop=True, crop_longest=1333)

GROUPS_12 = replace(CONDITIONAL, source="IDEA-Research/detrex", epochs=12, drops=(11,))
HYBRID_12 = replace(
    DEFORMABLE,
    source="HDETR/H-Deformable-DETR",
    epochs=12,
    drops=(11,),
    batch=16,
    images_per_gpu=2,
    dropout=0.0,
)

OFFICIAL: Mapping[str, Official] = {
    "adamixer_r50": ADAMIXER,
    "adamixer_r50_300": ADAMIXER_300,
    "adamixer_r50_300_12ep": replace(ADAMIXER_300, source="AdaMixer's paper", epochs=12, drops=None),
    "adamixer_r50_300_24ep": replace(ADAMIXER_300, source="AdaMixer's paper", epochs=24, drops=None),
    "adamixer_r101": ADAMIXER_300,
    "adamixer_x101_dcn": ADAMIXER_300,
    "adamixer_swin": replace(
        ADAMIXER_300,
        warmup="1000 steps from 0.001",
        no_decay="norms but those of neck and towers, relative position biases",
        norms=None,
        drop_path="0.2, feed-forward branches",
    ),
    "anchor_detr_r50": ANCHOR,
    "anchor_detr_r101": ANCHOR,
    "anchor_detr_r50_attention": ANCHOR,
    "anchor_detr_r50_dc5": ANCHOR,
    "anchor_detr_r101_dc5": ANCHOR,
    "conditional_detr_r50": CONDITIONAL,
    "conditional_detr_r101": CONDITIONAL,
    "conditional_detr_r50_dc5": CONDITIONAL_DC5,
    "conditional_detr_r101_dc5": CONDITIONAL_DC5,
    "conditional_detr_r50_dc5_108ep": CONDITIONAL_108,
    "conditional_detr_r101_dc5_108ep": CONDITIONAL_108,
    "conditional_detr_r50_groups_12ep": GROUPS_12,
    "dab_detr_r50": DAB,
    "dab_detr_r50_3pat": DAB,
    "dab_detr_r50_dc5": DAB,
    "dab_detr_r50_dc5_3pat": DAB,
    "dab_detr_r50_dc5_fixxy": replace(DAB, centers="trained, whatever the switch says"),
    "dab_detr_r101": DAB,
    "dab_detr_r101_dc5": DAB,
    "deformable_detr_r50": DEFORMABLE,
    "deformable_detr_r50_single_scale": DEFORMABLE,
    "deformable_detr_r50_single_scale_dc5": DEFORMABLE,
    "deformable_detr_r50_refine": DEFORMABLE,
    "deformable_detr_r50_two_stage": DEFORMABLE,
    "deformable_detr_r101_two_stage": replace(DEFORMABLE, source="Deformable DETR's paper"),
    "deformable_detr_x101_two_stage": replace(DEFORMABLE, source="Deformable DETR's paper"),
    "deformable_detr_x101_dcn_two_stage": replace(DEFORMABLE, source="Deformable DETR's paper"),
    "h_deformable_detr_r50_12ep": HYBRID_12,
    "h_deformable_detr_r50_36ep": replace(HYBRID_12, epochs=36, drops=(30,)),
    "detr_r50": DETR,
    "detr_r101": DETR,
    "detr_r50_dc5": replace(DETR, images_per_gpu=1),
    "detr_r101_dc5": replace(DETR, images_per_gpu=1),
    "detr_r50_50ep": DETR_50,
    "detr_r101_50ep": DETR_50,
    "detr_r50_dc5_50ep": replace(DETR_50, images_per_gpu=1),
    "detr_r50_dc5_plus": replace(
        DEFORMABLE, source="Deformable DETR's paper", sampling_lr=None, images_per_gpu=None
    ),
    "detr_r50_skip_first": DETR,
    "dino_r50": DINO,
    "dino_r50_24ep": DINO_24,
    "dino_r50_36ep": DINO_36,
    "dino_r50_5scale": replace(DINO, images_per_gpu=1),
    "dino_r50_5scale_24ep": replace(DINO_24, images_per_gpu=1),
    "dino_r50_5scale_36ep": replace(DINO_36, images_per_gpu=1),
    "dino_swin_l": SWIN_L,
    "dino_swin_l_36ep": replace(SWIN_L, epochs=36, drops=(30,)),
    "dino_swin_l_5scale": SWIN_L,
    "dino_swin_l_5scale_36ep": replace(SWIN_L, epochs=36, drops=(30,)),
    "dn_detr_r50": DN,
    "dn_detr_r50_3pat": DN,
    "dn_detr_r50_dc5": DN_DC5,
    "dn_detr_r50_dc5_3pat_12ep": DN_DC5_12,
    "dn_detr_r101": DN,
    "dn_detr_r101_dc5": DN_DC5,
    "dn_detr_r101_dc5_3pat_12ep": DN_DC5_12,
    "dynamic_detr_r50": DYNAMIC,
    "dynamic_detr_r50_50ep": replace(DYNAMIC, epochs=50),
    "dynamic_detr_r50_p3_p7": DYNAMIC,
    "efficient_detr_r50": EFFICIENT,
    "efficient_detr_r50_6enc": EFFICIENT,
    "efficient_detr_r50_6dec": EFFICIENT,
    "efficient_detr_r101": EFFICIENT,
    "efficient_detr_r101_6enc": EFFICIENT,
    "smca_r50": SMCA,
    "smca_r50_108ep": replace(SMCA, source="SMCA's paper", epochs=108, drops=None, batch=8, images_per_gpu=1),
    "smca_r50_fixed_scale": SMCA_PAPER,
    "smca_r50_one_scale": SMCA_PAPER,
    "smca_r50_head_shared": SMCA_PAPER,
    "smca_r50_multi_scale": SMCA_PAPER,
    "smca_r50_multi_scale_108ep": replace(SMCA_PAPER, epochs=108, drops=None),
    "smca_r101_multi_scale": SMCA_PAPER,
    "smca_r50_multi_scale_conv": replace(SMCA, source="SMCA's later release", batch=8, images_per_gpu=None),
    "sparse_rcnn_r50_100": DETECTRON,
    "sparse_rcnn_r101_100": DETECTRON,
    "sparse_rcnn_r50_300": replace(DETECTRON, crop=True, crop_longest=0),
    "sparse_rcnn_r101_300": replace(DETECTRON, crop=True, crop_longest=0),
}
"""Name of every job and variant to what its authors say; rows of tables are trained like their job."""
