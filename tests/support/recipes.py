"""What the papers and the authors' code say of every job: one line each, independent of the job files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qdet.config import override
from qdet.job import Job
from qdet.recipes import Recipe as JobFile
from qdet.recipes import read

REPO = Path(__file__).resolve().parents[2]
JOBS = sorted((REPO / "jobs").glob("*.py"))


@dataclass(frozen=True)
class Recipe:
    queries: int
    epochs: int
    drops: tuple[int, ...]
    batch: int
    params: int
    """Exact, with the authors' number of class logits and what they count as parameters."""
    lr: float = 1e-4
    backbone_factor: float = 0.1
    clip: float = 0.1
    warmup: int = 0
    crop: bool = True
    sizes: tuple[int, int] = (480, 800)
    gmacs: float | None = None
    """Billions of multiply-accumulates at 800 x 1333 of the authors' own classes, where counted."""


ADAMIXER = {"lr": 2.5e-5, "backbone_factor": 1.0, "clip": 1.0, "warmup": 500}
ONE_SIZE = ADAMIXER | {"crop": False, "sizes": (800, 800)}

DEFORMABLE = {"queries": 300, "epochs": 50, "drops": (40,), "batch": 32, "lr": 2e-4}
SPARSE_RCNN = {"lr": 2.5e-5, "backbone_factor": 1.0, "clip": 1.0, "warmup": 1000}

ANCHOR = {"queries": 900, "epochs": 50, "drops": (40,), "batch": 8}
SMCA = {"queries": 300, "epochs": 50, "drops": (40,), "batch": 8}
SMCA_MULTI_SCALE = SMCA
ENCODER_LAYER = 4 * 257 * 256 + (2 * 256 * 1024 + 1024 + 256) + 4 * 256
"""Parameters of an encoder layer of attention with a feed-forward block of 1024."""

DEFORMABLE_LAYER = 257 * 4 * 256 + 257 * (256 + 128 + 256 + 256) + (2 * 256 * 1024 + 1024 + 256) + 6 * 256
"""Parameters of a decoder layer with deformable attention."""
H_DETR = 12 * (2 * 256 * 1024 + 1024) + 1800 * 256
EFFICIENT = {"queries": 100, "epochs": 36, "drops": (24,), "batch": 16}
DYNAMIC = {"warmup": 1000}
AT_800 = {"crop": False, "sizes": (800, 800)}

SWIN_L_C2 = 2 * 192 + 256 * (192 + 1 + 2) + 18_071_870 - 17_775_550

RECIPES = {
    "adamixer_r50": Recipe(
        100, 12, (8, 11), 16, 134_790_904, **ADAMIXER, crop=False, sizes=(800, 800), gmacs=107.5
    ),
    "adamixer_r50_300": Recipe(300, 36, (24, 33), 16, 134_842_904, **ADAMIXER, gmacs=131.7),
    "adamixer_r101": Recipe(300, 36, (24, 33), 16, 153_835_032, **ADAMIXER),
    "adamixer_x101_dcn": Recipe(300, 36, (24, 33), 16, 156_035_380, **ADAMIXER),
    "adamixer_swin": Recipe(300, 36, (24, 33), 16, 159_559_074, **(ADAMIXER | {"warmup": 1000})),
    "adamixer_r50_300_12ep": Recipe(300, 12, (8, 11), 16, 134_842_904, **ADAMIXER, gmacs=131.7),
    "adamixer_r50_300_24ep": Recipe(300, 24, (16, 22), 16, 134_842_904, **ADAMIXER, gmacs=131.7),
    # Of the ablations: the published model with what the switch takes away or adds, by hand.
    "adamixer_r50_ablation_adaptive": Recipe(100, 12, (8, 11), 16, 134_790_904 - 6 * 384 * 256, **ONE_SIZE),
    "adamixer_r50_ablation_mixing": Recipe(100, 12, (8, 11), 16, 134_790_904, **ONE_SIZE),
    "adamixer_r50_ablation_sampling": Recipe(100, 12, (8, 11), 16, 134_790_904 - 6 * 128 * 257, **ONE_SIZE),
    "adamixer_r50_ablation_pyramid": Recipe(
        100, 12, (8, 11), 16, 134_790_904 + 4 * 256 * (256 + 1 + 9 * 256 + 1), **ONE_SIZE
    ),
    # Half of 32 points: their offsets, and as many columns fewer of the matrix that mixes points.
    "adamixer_r50_ablation_points_in": Recipe(
        100, 12, (8, 11), 16, 134_790_904 - 6 * 257 * 4 * 16 * (3 + 128), **ONE_SIZE
    ),
    # Half of 128 points: rows of that matrix, and what is read of them at the end.
    "adamixer_r50_ablation_points_out": Recipe(
        100, 12, (8, 11), 16, 134_790_904 - 6 * (257 * 4 * 64 * 32 + 256 * 4 * 64 * 64), **ONE_SIZE
    ),
    # Two groups of 128 channels for four of 64: more numbers that mix channels, fewer points to find and mix.
    "adamixer_r50_ablation_groups": Recipe(
        100, 12, (8, 11), 16, 134_790_904 + 6 * 257 * (16_384 - 2 * 32 * (3 + 128)), **ONE_SIZE
    ),
    "adamixer_r50_ablation_position": Recipe(100, 12, (8, 11), 16, 134_790_904, **ONE_SIZE),
    "detr_r50": Recipe(100, 500, (400,), 64, 41_524_768, gmacs=101.7),
    "detr_r50_dc5": Recipe(100, 500, (400,), 64, 41_524_768, gmacs=227.8),
    "detr_r101": Recipe(100, 500, (400,), 64, 60_464_672, gmacs=181.2),
    "detr_r101_dc5": Recipe(100, 500, (400,), 64, 60_464_672),
    "detr_r50_50ep": Recipe(100, 50, (40,), 16, 41_524_768, gmacs=101.7),
    "detr_r101_50ep": Recipe(100, 50, (40,), 16, 60_464_672, gmacs=181.2),
    "detr_r50_dc5_50ep": Recipe(100, 50, (40,), 16, 41_524_768, gmacs=227.8),
    # 200 queries more, and no logit of no object.
    "detr_r50_dc5_plus": Recipe(300, 50, (40,), 32, 41_524_768 + 200 * 256 - 257, lr=2e-4),
    # Four products of 256 x 256 with their biases, and a norm, are left out.
    "detr_r50_skip_first": Recipe(100, 500, (400,), 64, 41_524_768 - 4 * 257 * 256 - 2 * 256),
    "deformable_detr_r50_single_scale": Recipe(params=34_066_593, **DEFORMABLE),
    "deformable_detr_r50_single_scale_dc5": Recipe(params=34_066_593, **DEFORMABLE),
    "deformable_detr_r50": Recipe(params=40_069_665, **DEFORMABLE, gmacs=204.0),
    "deformable_detr_r50_refine": Recipe(params=40_849_660, **DEFORMABLE),
    "deformable_detr_r50_two_stage": Recipe(params=41_181_529, **DEFORMABLE, gmacs=209.2),
    # What the authors' two-stage model has outside its backbone, and the convolutions of torchvision's
    # ResNet-101 and ResNeXt-101-32x8d, and of AdaMixer's ResNeXt-101-DCN.
    "deformable_detr_r101_two_stage": Recipe(params=17_726_617 + 42_394_816, **DEFORMABLE),
    "deformable_detr_x101_two_stage": Recipe(params=17_726_617 + 86_539_456, **DEFORMABLE),
    "deformable_detr_x101_dcn_two_stage": Recipe(params=17_726_617 + 44_562_652, **DEFORMABLE),
    # Feed-forward blocks of twice 1024 in 12 layers, and a learned content of 300 queries and of 1500 more.
    "h_deformable_detr_r50_12ep": Recipe(300, 12, (11,), 16, 41_181_529 + H_DETR, lr=2e-4),
    "h_deformable_detr_r50_36ep": Recipe(300, 36, (30,), 16, 41_181_529 + H_DETR, lr=2e-4),
    # Counted from the paper's description; `test_efficient_detr_costs_what_its_paper_says` has its costs.
    "efficient_detr_r50": Recipe(params=33_134_623, **EFFICIENT),
    "efficient_detr_r50_6enc": Recipe(params=35_405_215, **EFFICIENT),
    "efficient_detr_r101": Recipe(params=52_074_527, **EFFICIENT),
    "efficient_detr_r101_6enc": Recipe(params=54_345_119, **EFFICIENT),
    # Five more layers: two attentions, a feed-forward block and three norms each.
    "efficient_detr_r50_6dec": Recipe(params=33_134_623 + 5 * DEFORMABLE_LAYER, **EFFICIENT),
    "efficient_detr_r50_ablation_reference_learned": Recipe(params=33_134_623 + 100 * 4, **EFFICIENT),
    "efficient_detr_r50_ablation_reference_grid": Recipe(params=33_134_623, **EFFICIENT),
    "efficient_detr_r50_ablation_reference_image": Recipe(params=33_134_623, **EFFICIENT),
    "efficient_detr_r50_ablation_reference_dims": Recipe(params=33_134_623, **EFFICIENT),
    "efficient_detr_r50_ablation_content": Recipe(params=33_134_623 + 100 * 256, **EFFICIENT),
    "sparse_rcnn_r50_100": Recipe(100, 36, (28, 33), 16, 106_237_768, **SPARSE_RCNN, crop=False),
    "sparse_rcnn_r50_300": Recipe(300, 36, (28, 33), 16, 106_289_768, **SPARSE_RCNN),
    "sparse_rcnn_r101_100": Recipe(100, 36, (28, 33), 16, 125_177_672, **SPARSE_RCNN, crop=False),
    "sparse_rcnn_r101_300": Recipe(300, 36, (28, 33), 16, 125_229_672, **SPARSE_RCNN),
    "anchor_detr_r50": Recipe(params=37_038_711, **ANCHOR, gmacs=109.1),
    "anchor_detr_r50_dc5": Recipe(params=37_038_711, **ANCHOR, gmacs=208.2),
    "anchor_detr_r101": Recipe(params=55_978_615, **ANCHOR),
    "anchor_detr_r101_dc5": Recipe(params=55_978_615, **ANCHOR),
    # Without the perceptron of single coordinates, which the authors' code makes here too and never calls.
    "anchor_detr_r50_attention": Recipe(params=35_328_119, **ANCHOR),
    "conditional_detr_r50": Recipe(300, 50, (40,), 16, 43_418_401, gmacs=106.0),
    "conditional_detr_r50_dc5": Recipe(300, 50, (40,), 8, 43_418_401, gmacs=236.7),
    "conditional_detr_r101": Recipe(300, 50, (40,), 16, 62_358_305),
    "conditional_detr_r101_dc5": Recipe(300, 50, (40,), 8, 62_358_305),
    "conditional_detr_r50_dc5_108ep": Recipe(300, 108, (80,), 8, 43_418_401, gmacs=236.7),
    "conditional_detr_r101_dc5_108ep": Recipe(300, 108, (80,), 8, 62_358_305),
    # Ten more groups of queries; detrex counts 80 classes.
    "conditional_detr_r50_groups_12ep": Recipe(300, 12, (11,), 16, 43_418_401 + 10 * 300 * 256 - 11 * 257),
    "dab_detr_r50": Recipe(300, 50, (40,), 16, 43_671_517, gmacs=107.5),
    "dab_detr_r50_3pat": Recipe(900, 50, (40,), 16, 43_672_285),
    "dab_detr_r50_dc5": Recipe(300, 50, (40,), 16, 43_671_517, gmacs=240.7),
    "dab_detr_r50_dc5_fixxy": Recipe(300, 50, (40,), 16, 43_671_517, gmacs=240.7),
    "dab_detr_r50_dc5_3pat": Recipe(900, 50, (40,), 16, 43_672_285),
    "dab_detr_r101": Recipe(300, 50, (40,), 16, 62_611_421),
    "dab_detr_r101_dc5": Recipe(300, 50, (40,), 16, 62_611_421),
    "dab_detr_r50_ablation_modulated": Recipe(300, 50, (40,), 16, 43_671_517 - 257 * (256 + 2)),
    "dab_detr_r50_ablation_updated": Recipe(300, 50, (40,), 16, 43_671_517),
    # Centres alone: half of each anchor, half of what positions are computed from, and no modulation.
    "dab_detr_r50_ablation_anchor_dims": Recipe(
        300, 50, (40,), 16, 43_671_517 - 600 - 256 * 256 - 257 * (256 + 2)
    ),
    "dab_detr_r50_ablation_map_temperatures": Recipe(300, 50, (40,), 16, 43_671_517),
    "dab_detr_r50_ablation_query_temperature": Recipe(300, 50, (40,), 16, 43_671_517),
    "smca_r50_ablation_batch": Recipe(300, 50, (40,), 16, 41_760_482, gmacs=104.5),
    "smca_r50_ablation_sharpness": Recipe(params=41_760_482 + 6 * 8 * 257, **SMCA),
    "dn_detr_r50": Recipe(300, 50, (40,), 16, 43_694_977),
    "dn_detr_r50_3pat": Recipe(900, 50, (40,), 16, 43_695_745),
    "dn_detr_r50_dc5": Recipe(300, 50, (40,), 16, 43_694_977),
    "dn_detr_r50_dc5_3pat_12ep": Recipe(900, 12, (11,), 16, 43_695_745),
    "dn_detr_r101": Recipe(300, 50, (40,), 16, 62_634_881),
    "dn_detr_r101_dc5": Recipe(300, 50, (40,), 16, 62_634_881),
    "dn_detr_r101_dc5_3pat_12ep": Recipe(900, 12, (11,), 16, 62_634_881 + 768),
    "dino_r50": Recipe(900, 12, (11,), 16, 46_893_182, gmacs=289.6),
    "dino_r50_24ep": Recipe(900, 24, (20,), 16, 46_893_182, gmacs=289.6),
    "dino_r50_36ep": Recipe(900, 36, (30,), 16, 46_893_182, gmacs=289.6),
    "dino_r50_5scale": Recipe(900, 12, (11,), 16, 47_255_806),
    "dino_r50_5scale_24ep": Recipe(900, 24, (20,), 16, 47_255_806),
    "dino_r50_5scale_36ep": Recipe(900, 36, (30,), 16, 47_255_806),
    "dino_swin_l": Recipe(900, 12, (11,), 16, 217_230_066),
    "dino_swin_l_36ep": Recipe(900, 36, (30,), 16, 217_230_066),
    # A fifth scale: the norm of C2, its projection with norm, and what ResNet's transformer has more for it.
    "dino_swin_l_5scale": Recipe(900, 12, (11,), 16, 217_230_066 + SWIN_L_C2),
    "dino_swin_l_5scale_36ep": Recipe(900, 36, (30,), 16, 217_230_066 + SWIN_L_C2),
    "smca_r50": Recipe(params=41_760_482, **SMCA, gmacs=104.5),
    "smca_r50_108ep": Recipe(300, 108, (80,), 8, 41_760_482, gmacs=104.5),
    # What decides of a Gaussian is missing or smaller: 257 numbers per number that it decides.
    "smca_r50_fixed_scale": Recipe(params=41_760_482 - 6 * 16 * 257, **SMCA),
    "smca_r50_one_scale": Recipe(params=41_760_482 - 6 * 8 * 257, **SMCA),
    "smca_r50_head_shared": Recipe(params=41_760_482 - 6 * (16 + 14) * 257, **SMCA),
    "smca_r50_multi_scale": Recipe(params=39_752_308, **SMCA_MULTI_SCALE),
    "smca_r50_multi_scale_108ep": Recipe(300, 108, (80,), 8, 39_752_308),
    "smca_r101_multi_scale": Recipe(params=58_692_212, **SMCA_MULTI_SCALE),
    "smca_r50_multi_scale_ablation_encoder_intra_intra_intra_intra_intra": Recipe(
        params=39_752_308, **SMCA_MULTI_SCALE
    ),
    "smca_r50_multi_scale_ablation_encoder_intra_intra_intra": Recipe(
        params=39_752_308 - 2 * ENCODER_LAYER, **SMCA_MULTI_SCALE
    ),
    "smca_r50_multi_scale_ablation_encoder_multi_multi_multi": Recipe(
        params=39_752_308 - 2 * ENCODER_LAYER, **SMCA_MULTI_SCALE
    ),
    "smca_r50_multi_scale_ablation_scale_selection": Recipe(
        params=39_752_308 - 6 * 3 * 257, **SMCA_MULTI_SCALE
    ),
    # Two more of each of the four layers within scales.
    "smca_r50_multi_scale_ablation_shared_scales": Recipe(
        params=39_752_308 + 2 * 4 * ENCODER_LAYER, **SMCA_MULTI_SCALE
    ),
    "smca_r50_multi_scale_conv": Recipe(params=40_199_738, **SMCA_MULTI_SCALE),
    # Near the 58 million that later papers give it: there is no code to count.
    "dynamic_detr_r50": Recipe(300, 12, (8, 11), 16, 58_738_538, **DYNAMIC, crop=False, sizes=(800, 800)),
    "dynamic_detr_r50_50ep": Recipe(300, 50, (40,), 16, 58_738_538, **DYNAMIC),
    # Without the two convolutions of P2.
    "dynamic_detr_r50_p3_p7": Recipe(
        300, 12, (8, 11), 16, 58_738_538 - 257 * 256 - 256 * (9 * 256 + 1), **DYNAMIC, **AT_800
    ),
}

INTRA, MULTI = ("intra",), ("multi",)
ABLATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "adamixer_r50_ablation_adaptive": ("adamixer_r50", {"detector.adaptive": "content"}),
    "adamixer_r50_ablation_mixing": ("adamixer_r50", {"detector.mixing": "asm-acm"}),
    "adamixer_r50_ablation_sampling": ("adamixer_r50", {"detector.sampling": "2d"}),
    "adamixer_r50_ablation_pyramid": ("adamixer_r50", {"detector.pyramid": "fpn"}),
    "adamixer_r50_ablation_points_in": ("adamixer_r50", {"detector.points_in": 16}),
    "adamixer_r50_ablation_points_out": ("adamixer_r50", {"detector.points_out": 64}),
    "adamixer_r50_ablation_groups": ("adamixer_r50", {"detector.groups": 2}),
    "adamixer_r50_ablation_position": ("adamixer_r50", {"detector.position": "iof"}),
    "dab_detr_r50_ablation_modulated": ("dab_detr_r50", {"detector.modulated": False}),
    "dab_detr_r50_ablation_updated": ("dab_detr_r50", {"detector.updated": False}),
    "dab_detr_r50_ablation_anchor_dims": ("dab_detr_r50", {"detector.anchor_dims": 2}),
    "dab_detr_r50_ablation_map_temperatures": (
        "dab_detr_r50",
        {"detector.map_temperatures_yx": (10_000.0, 10_000.0)},
    ),
    "dab_detr_r50_ablation_query_temperature": ("dab_detr_r50", {"detector.query_temperature": 20.0}),
    "efficient_detr_r50_ablation_reference_learned": (
        "efficient_detr_r50",
        {"detector.reference": "learned"},
    ),
    "efficient_detr_r50_ablation_reference_grid": ("efficient_detr_r50", {"detector.reference": "grid"}),
    "efficient_detr_r50_ablation_reference_image": ("efficient_detr_r50", {"detector.reference": "image"}),
    "efficient_detr_r50_ablation_reference_dims": ("efficient_detr_r50", {"detector.reference_dims": 2}),
    "efficient_detr_r50_ablation_content": ("efficient_detr_r50", {"detector.content": "learned"}),
    "smca_r50_ablation_batch": ("smca_r50", {"train.batch_size": 16}),
    "smca_r50_ablation_sharpness": ("smca_r50", {"detector.sharpness": "product"}),
    "smca_r50_multi_scale_ablation_encoder_intra_intra_intra_intra_intra": (
        "smca_r50_multi_scale",
        {"detector.encoder": 5 * INTRA},
    ),
    "smca_r50_multi_scale_ablation_encoder_intra_intra_intra": (
        "smca_r50_multi_scale",
        {"detector.encoder": 3 * INTRA},
    ),
    "smca_r50_multi_scale_ablation_encoder_multi_multi_multi": (
        "smca_r50_multi_scale",
        {"detector.encoder": 3 * MULTI},
    ),
    "smca_r50_multi_scale_ablation_scale_selection": (
        "smca_r50_multi_scale",
        {"detector.scale_selection": False},
    ),
    "smca_r50_multi_scale_ablation_shared_scales": (
        "smca_r50_multi_scale",
        {"detector.shared_scales": False},
    ),
}
"""Models that are rows of tables: their job, and what sets them apart from it."""

FILES = {path.stem: read(path) for path in JOBS}


def read_models(files: dict[str, JobFile]) -> dict[str, Job]:
    """Return every job that a file, a variant or a row of a table trains, by its name."""
    jobs = [file.job for file in files.values()]
    jobs += [file.chosen(variant) for file in files.values() for variant in file.variants]
    jobs += [
        override(files[file].job, {"name": name, **changes}) for name, (file, changes) in ABLATIONS.items()
    ]
    assert len({job.name for job in jobs}) == len(jobs)
    return {job.name: job for job in sorted(jobs, key=lambda job: job.name)}


MODELS = read_models(FILES)
