"""The zoo: every published model that a job file trains, with its size here and in its paper.

`rows()` counts parameters as the authors do, with their number of class logits, and multiply-accumulates of
one image of 800 x 1333 without padding. The papers of the DETR family average over the first 100 images of
COCO val2017 instead, which are smaller: their numbers are about 0.85 of those here.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

import torch

from qdet.config import override
from qdet.detectors.complexity import count_macs, count_parameters
from qdet.job import Job
from qdet.job_files import JOBS, name_job, shipped
from qdet.recipes import Published, Recipe, describe_backbone, read, table_name

SIZE_HW = (800, 1333)
"""Size of the image that multiply-accumulates are counted for."""

QUOTED = {
    "adamixer_r50_ablation_adaptive": "content",
    "adamixer_r50_ablation_mixing": "asm-acm",
    "adamixer_r50_ablation_sampling": "2d",
    "adamixer_r50_ablation_pyramid": "fpn",
    "adamixer_r50_ablation_points_in": 16,
    "adamixer_r50_ablation_points_out": 64,
    "adamixer_r50_ablation_groups": 2,
    "adamixer_r50_ablation_position": "iof",
}
"""One row of each ablation table, listed beside the models that have their own job or variant."""


@dataclass(frozen=True)
class Model:
    """A published model: the job that trains it, its command, and the paper's numbers."""

    job: Job
    command: str
    published: Published


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


def models() -> Iterator[Model]:
    """Yield what the job files say is published: plain jobs, variants, and quoted rows of tables.

    Raises:
        ConfigError: There are no job files.
    """
    for path in shipped():
        recipe, command = read(path), name_job(path)
        if recipe.published is None:
            continue
        yield Model(recipe.job, command, recipe.published)
        for name, variant in recipe.variants.items():
            if variant.published is not None:
                yield Model(variant.of(recipe.job), f"{command} --variant {name}", variant.published)
        yield from _quoted(recipe, command, recipe.published)


def _quoted(recipe: Recipe, command: str, published: Published) -> Iterator[Model]:
    for table_key, table in recipe.tables.items():
        name = table_name(recipe.job, table_key)
        if name not in QUOTED:
            continue
        value = QUOTED[name]
        paper = table.published(value)
        yield Model(
            override(recipe.job, {"name": name, table.setting: value}),
            f"{command} --{table.setting.replace('_', '-')} {value}",
            replace(published, ap=paper.ap, params=paper.params, macs=paper.macs),
        )


def rows() -> Iterator[Row]:
    """Build each model on the meta device and count it."""
    for model in models():
        yield row(model)


def row(model: Model) -> Row:
    """Count one model."""
    job, published = model.job, model.published
    with torch.device("meta"):
        detector = job.detector.build(published.classes)
    image, size = torch.empty(1, 3, *SIZE_HW), torch.tensor([SIZE_HW])
    return Row(
        name=job.name,
        job=model.command,
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


def load_job(name: str, variant: str | None = None) -> Job:
    """Read one job file that comes with qdet, or one of its variants.

    Raises:
        ConfigError: The folder has no such file, or the file no such variant.
    """
    return read(JOBS / f"{name}.py").chosen(variant)


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
