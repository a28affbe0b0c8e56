"""The zoo: every published model that a job file trains, with its size here and in its paper.

`rows()` counts parameters as the authors do, with their number of class logits, and multiply-accumulates of
one image of 800 x 1333 without padding. Papers of DETR's family average over the first 100 images of COCO
val2017 instead, which are smaller: their numbers are about 0.85 of those here.
"""

import runpy
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from qdet.complexity import count_macs, count_parameters
from qdet.errors import ConfigError
from qdet.job import Job

JOBS = Path(__file__).parents[1] / "jobs"
SIZE_HW = (800, 1333)
"""Size of the image that multiply-accumulates are counted for."""


@dataclass(frozen=True)
class Published:
    """What a paper or its authors' code says of one model; None where neither does."""

    job: str
    """Name of the job file."""
    params: int | float | None
    """Millions of parameters."""
    macs: int | float | None
    """Billions of multiply-accumulates, which most papers call FLOPs."""
    ap: float | None
    """AP on COCO val2017, or on test-dev where a paper has no other."""
    classes: int = 80
    """Class logits of the authors' model, not counting one for no object."""
    constants: int = 0
    """Numbers that the authors count as parameters and that are constants here."""


@dataclass(frozen=True)
class Row:
    """One line of the zoo; counts are single parameters and multiply-accumulates."""

    name: str
    job: str
    detector: str
    backbone: str
    queries: int
    epochs: int
    params: int
    macs: int
    paper_params: float | None
    paper_macs: float | None
    paper_ap: float | None


PUBLISHED = (
    Published("adamixer_r50", 139, 104, 42.7, constants=400),
    Published("adamixer_r50_300", 139, 132, 47.0, constants=1200),
    Published("adamixer_r101", 158, 208, 48.0, constants=1200),
    Published("adamixer_x101_dcn", 160, 214, 49.5, constants=1200),
    Published("adamixer_swin", 164, 234, 51.3, constants=1200),
    Published("adamixer_r50_ablation_adaptive", None, None, 40.4, constants=400),
    Published("adamixer_r50_ablation_mixing", None, None, 41.5, constants=400),
    Published("adamixer_r50_ablation_sampling", None, None, 41.3, constants=400),
    Published("adamixer_r50_ablation_pyramid", None, None, 42.1, constants=400),
    Published("adamixer_r50_ablation_points_in", None, None, 41.8, constants=400),
    Published("adamixer_r50_ablation_points_out", None, None, 42.1, constants=400),
    Published("adamixer_r50_ablation_groups", 148, 106, None, constants=400),
    Published("adamixer_r50_ablation_position", None, None, None, constants=400),
    Published("detr_r50", 41, 86, 42.0, classes=91),
    Published("detr_r50_dc5", 41, 187, 43.3, classes=91),
    Published("detr_r101", 60, 152, 43.5, classes=91),
    Published("detr_r101_dc5", 60, 253, 44.9, classes=91),
    Published("detr_r50_50ep", 41, 86, 34.8, classes=91),
    Published("detr_r101_50ep", 60, 152, 36.9, classes=91),
    Published("detr_r50_dc5_50ep", 41, 187, 35.3, classes=91),
    Published("deformable_detr_r50_single_scale", 34, 78, 39.4, classes=91),
    Published("deformable_detr_r50_single_scale_dc5", 34, 128, 41.5, classes=91),
    Published("deformable_detr_r50", 40, 173, 43.8, classes=91),
    Published("deformable_detr_r50_refine", 41, 173, 45.4, classes=91),
    Published("deformable_detr_r50_two_stage", 41, 173, 46.2, classes=91),
    Published("deformable_detr_r101_two_stage", None, None, 48.7, classes=91),
    Published("deformable_detr_x101_two_stage", None, None, 49.0, classes=91),
    Published("deformable_detr_x101_dcn_two_stage", None, None, 50.1, classes=91),
    # 11.3 to 12.0 billion more than is counted here, for all four alike: backbone, image size and encoder
    # layers agree. It is what 8 products of 256 x 256 for each of 22,223 tokens cost (11.65), as if the dense
    # head had four more layers each for classes and boxes. But these have 0.5 million parameters, and the
    # paper's numbers of parameters leave room for 0.2 to 0.4: the cause is not known.
    Published("efficient_detr_r50", 32, 159, 44.2, classes=91),
    Published("efficient_detr_r50_6enc", 35, 210, 45.1, classes=91),
    Published("efficient_detr_r101", 51, 239, 45.2, classes=91),
    Published("efficient_detr_r101_6enc", 54, 289, 45.7, classes=91),
    Published("sparse_rcnn_r50_100", None, None, 42.8),
    Published("sparse_rcnn_r50_300", 110, 174, 45.0),
    Published("sparse_rcnn_r101_100", None, None, 44.1),
    Published("sparse_rcnn_r101_300", None, 250, 46.4),
    Published("anchor_detr_r50", None, None, 42.1, classes=91),
    Published("anchor_detr_r50_dc5", None, 172, 44.3, classes=91),
    Published("anchor_detr_r101", None, None, 43.5, classes=91),
    Published("anchor_detr_r101_dc5", None, None, 45.1, classes=91),
    Published("anchor_detr_r50_attention", None, None, None, classes=91),
    Published("conditional_detr_r50", 44, 90, 41.0, classes=91),
    Published("conditional_detr_r50_dc5", 44, 195, 43.7, classes=91),
    Published("conditional_detr_r101", 63, 156, 42.8, classes=91),
    Published("conditional_detr_r101_dc5", 63, 262, 45.0, classes=91),
    Published("conditional_detr_r50_dc5_108ep", 44, 195, 45.1, classes=91),
    Published("conditional_detr_r101_dc5_108ep", 63, 262, 45.9, classes=91),
    Published("dab_detr_r50", 44, 94, 42.2, classes=91),
    Published("dab_detr_r50_3pat", 44, 100, 42.6, classes=91),
    Published("dab_detr_r50_dc5", 44, 202, 44.5, classes=91),
    Published("dab_detr_r50_dc5_fixxy", 44, 202, 44.7, classes=91, constants=600),
    Published("dab_detr_r50_dc5_3pat", 44, 216, 45.7, classes=91),
    Published("dab_detr_r101", 63, 174, 43.5, classes=91),
    Published("dab_detr_r101_dc5", 63, 282, 45.8, classes=91),
    Published("smca_r50", None, None, 41.0, classes=92),
    Published("smca_r50_108ep", None, None, 42.7, classes=92),
    Published("smca_r50_fixed_scale", None, None, 38.5, classes=92),
    Published("smca_r50_one_scale", None, None, None, classes=92),
    Published("smca_r50_head_shared", None, None, 40.2, classes=92),
    Published("smca_r50_multi_scale", 40, 152, 43.7, classes=92),
    Published("smca_r50_multi_scale_108ep", 40, 152, 45.6, classes=92),
    Published("smca_r101_multi_scale", 58, 218, 44.4, classes=92),
    Published("smca_r50_multi_scale_conv", None, None, 44.4, classes=92),
    Published("dynamic_detr_r50", 58, None, 42.9),
    Published("dynamic_detr_r50_50ep", 58, None, 47.2),
)
"""Every model that has a job file, in the order of the table."""


def rows() -> Iterator[Row]:
    """Build each model on the meta device and count it."""
    for published in PUBLISHED:
        yield row(published)


def row(published: Published) -> Row:
    """Count one model."""
    job = load_job(published.job)
    with torch.device("meta"):
        detector = job.detector.build(published.classes)
    image, size = torch.empty(1, 3, *SIZE_HW), torch.tensor([SIZE_HW])
    return Row(
        name=published.job,
        job=f"jobs/{published.job}.py",
        detector=type(job.detector).__name__.removesuffix("Config"),
        backbone=describe_backbone(job.detector.backbone),
        queries=job.detector.queries,
        epochs=job.train.epochs,
        params=count_parameters(detector) + published.constants,
        macs=count_macs(detector.eval(), image, size),
        paper_params=_times(published.params, 1e6),
        paper_macs=_times(published.macs, 1e9),
        paper_ap=published.ap,
    )


def load_job(name: str) -> Job:
    """Read one job file of the `jobs` folder.

    Raises:
        ConfigError: the folder has no such file.
    """
    path = JOBS / f"{name}.py"
    if not path.is_file():
        raise ConfigError(f"there is no job file {path}; the zoo needs a checkout of the project")
    return runpy.run_path(str(path))["job"]


def describe_backbone(config: object) -> str:
    """Name a backbone by its class and those settings that tell published ones apart."""
    kind = type(config).__name__.removesuffix("Config")
    groups = getattr(config, "groups", 1)
    parts = ["ResNeXt" if kind == "ResNet" and groups > 1 else kind]
    parts += [str(getattr(config, name)).upper() for name in ("depth", "size") if hasattr(config, name)]
    parts += [f"{groups}x{getattr(config, 'width_per_group', '')}d"] if groups > 1 else []
    return "-".join([*parts, "DC5"] if getattr(config, "dilate_c5", False) else parts)


def table() -> str:
    """Return all rows as text: counts in millions and billions, papers' in parentheses."""
    titles = ("model", "detector", "backbone", "queries", "epochs", "params M", "MACs G", "paper AP", "job")
    lines: list[tuple[str, ...]] = [titles]
    for r in rows():
        params = f"{r.params / 1e6:.1f} ({_of(r.paper_params, 1e6)})"
        macs = f"{r.macs / 1e9:.1f} ({_of(r.paper_macs, 1e9)})"
        ap = _of(r.paper_ap, 1, digits=1)
        lines.append((r.name, r.detector, r.backbone, str(r.queries), str(r.epochs), params, macs, ap, r.job))
    widths = [max(len(line[i]) for line in lines) for i in range(len(titles))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def as_json() -> list[dict[str, object]]:
    """Return all rows for programs."""
    return [asdict(r) for r in rows()]


def _times(value: int | float | None, unit: float) -> float | None:
    return None if value is None else value * unit


def _of(value: float | None, unit: float, *, digits: int = 0) -> str:
    return "-" if value is None else f"{value / unit:.{digits}f}"
