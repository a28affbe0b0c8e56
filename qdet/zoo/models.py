"""Every published model that a job file trains."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from qdet.config import override
from qdet.job import Job
from qdet.job_files import JOBS, name_job, shipped
from qdet.recipes import Published, Recipe, read, table_name

ABLATION_ROWS: Mapping[str, tuple[Any, ...]] = {
    "adamixer_r50_ablation_adaptive": ("content",),
    "adamixer_r50_ablation_mixing": ("asm-acm",),
    "adamixer_r50_ablation_sampling": ("2d",),
    "adamixer_r50_ablation_pyramid": ("fpn",),
    "adamixer_r50_ablation_points_in": (16,),
    "adamixer_r50_ablation_points_out": (64,),
    "adamixer_r50_ablation_groups": (2,),
    "adamixer_r50_ablation_position": ("iof",),
    "dab_detr_r50_ablation_modulated": (False,),
    "dab_detr_r50_ablation_updated": (False,),
    "dab_detr_r50_ablation_anchor_dims": (2,),
    "dab_detr_r50_ablation_map_temperatures": ((10_000.0, 10_000.0),),
    "dab_detr_r50_ablation_query_temperature": (20.0,),
    "efficient_detr_r50_ablation_reference": ("learned", "grid", "image"),
    "efficient_detr_r50_ablation_reference_dims": (2,),
    "efficient_detr_r50_ablation_content": ("learned",),
    "smca_r50_ablation_batch": (16,),
    "smca_r50_ablation_sharpness": ("product",),
    "smca_r50_multi_scale_ablation_encoder": (("intra",) * 5, ("intra",) * 3, ("multi",) * 3),
    "smca_r50_multi_scale_ablation_scale_selection": (False,),
    "smca_r50_multi_scale_ablation_shared_scales": (False,),
}
"""Rows of each ablation table that are listed beside the models that have their own job or variant."""


@dataclass(frozen=True)
class Model:
    """A published model: the job that trains it, its command, and the paper's numbers."""

    job: Job
    command: str
    published: Published


def models() -> Iterator[Model]:
    """Yield what the job files say is published: plain jobs, variants, and rows of ablation tables.

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
        yield from _ablation_rows(recipe, command, recipe.published)


def _ablation_rows(recipe: Recipe, command: str, published: Published) -> Iterator[Model]:
    for key, table in recipe.tables.items():
        name = table_name(recipe.job, key)
        listed = ABLATION_ROWS.get(name, ())
        for value in listed:
            own = name if len(listed) == 1 else f"{name}_{_join(value, '_')}"
            paper = table.published(value)
            yield Model(
                override(recipe.job, {"name": own, table.setting: value}),
                f"{command} {_flag(table.setting, value)}",
                replace(paper, classes=published.classes, constants=published.constants),
            )


def _flag(setting: str, value: Any) -> str:
    """Return how the command line of a job sets a value."""
    setting = setting.replace("_", "-")
    if isinstance(value, bool):
        part, _, last = setting.rpartition(".")
        return f"--{setting}" if value else f"--{part}.no-{last}"
    return f"--{setting} {_join(value, ' ')}"


def _join(value: Any, separator: str) -> str:
    return separator.join(map(str, value)) if isinstance(value, tuple) else str(value)


def load_job(name: str, variant: str | None = None) -> Job:
    """Read one job file that comes with qdet, or one of its variants.

    Raises:
        ConfigError: The folder has no such file, or the file no such variant.
    """
    return read(JOBS / f"{name}.py").chosen(variant)
