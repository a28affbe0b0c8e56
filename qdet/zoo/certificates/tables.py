"""Which published tables can be certified: ablations of job files, groups of models, and the race of all."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, NamedTuple

from qdet.backbones import SwinConfig
from qdet.config import override
from qdet.errors import ConfigError, did_you_mean
from qdet.job import Job
from qdet.job_files import JOBS, shipped
from qdet.recipes import Published, Recipe, Table, read

RACE = "race"
RATES = (3e-4, 1e-3, 3e-3)
"""Learning rates that each row of the race tries first; the ablations take the demo's own."""


class Model(NamedTuple):
    """A row: a job file, its variant, and changes with the name that they give the row."""

    job: str
    variant: str | None = None
    named: str = ""
    changes: Mapping[str, Any] = MappingProxyType({})


def _denoising(**settings: Any) -> Mapping[str, Any]:
    return {f"detector.denoising.{name}": value for name, value in settings.items()}


WITHOUT = "without_denoising"
GROUPS: Mapping[str, tuple[Model, ...]] = {
    RACE: (
        Model("adamixer_r50"),
        Model("sparse_rcnn_r50_100"),
        Model("dynamic_detr_r50"),
        Model("efficient_detr_r50"),
        Model("deformable_detr_r50"),
        Model("deformable_detr_r50_two_stage"),
        Model("anchor_detr_r50"),
        Model("conditional_detr_r50"),
        Model("dab_detr_r50"),
        Model("dn_detr_r50"),
        Model("dn_detr_r50", None, f"dn_detr_r50-{WITHOUT}", _denoising(kind="none")),
        Model("dino_r50"),
        Model("dino_r50", None, f"dino_r50-{WITHOUT}", _denoising(kind="none")),
        Model("smca_r50"),
        Model("detr_r50"),
    ),
    "denoising": (
        Model("dino_r50", None, "none", _denoising(kind="none")),
        Model("dino_r50", None, "plain", _denoising(kind="plain")),
        Model("dino_r50", None, "contrastive"),
        *(Model("dino_r50", None, f"contrastive_{n}_groups", _denoising(groups=n)) for n in (1, 3, 5)),
        Model("dino_r50", None, "contrastive_by_batch", _denoising(grouping="batch")),
    ),
    "deformable_detr:variants": (
        Model("deformable_detr_r50", "single_scale"),
        Model("deformable_detr_r50"),
        Model("deformable_detr_r50", "refine"),
        Model("deformable_detr_r50_two_stage"),
    ),
}
"""Tables whose rows are models: job files with their variants, or with changes of their own."""
RACE_AP: Mapping[str, float] = {
    "detr_r50": 20.0,
    "deformable_detr_r50": 35.1,
    "sparse_rcnn_r50_100": 37.9,
    "adamixer_r50": 42.7,
    "dynamic_detr_r50": 42.9,
    "dino_r50": 49.0,
}
"""AP on COCO after 12 epochs, where it is published: of the first four in AdaMixer's paper, table 2, of the
others in their own. The race makes no other claim, as the other papers train for longer."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of a published table."""

    name: str
    recipe: Recipe
    variant: str | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Setting that tells it from its neighbours, by dotted path."""
    published: Published

    def small(self) -> Job:
        """Return its job at demo size, with the pre-trained backbone that all rows share."""
        job = self.recipe.chosen(self.variant).demo(self.recipe.demo)
        job = replace(job, detector=replace(job.detector, backbone=SwinConfig().demo()))
        return override(job, dict(self.changes))

    def full(self) -> Job:
        """Return its job as published."""
        return override(self.recipe.chosen(self.variant), dict(self.changes))


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A published table, whose order is to be certified."""

    name: str
    setting: str | None
    """Dotted path of the setting that differs; None where rows are models."""
    rows: tuple[Row, ...]
    rates: tuple[float, ...] = ()
    """Learning rates that each row tries before its seeds; empty: the job's own."""

    def row(self, name: str) -> Row:
        """Return the row of that name; KeyError without one."""
        return {row.name: row for row in self.rows}[name]


def claims() -> Iterator[str]:
    """Yield the names of all tables."""
    yield from GROUPS
    for path in shipped():
        recipe = read(path)
        yield from (f"{path.stem}:{table}" for table in recipe.tables if _has_order(recipe.tables[table]))


def find(name: str) -> Claim:
    """Return a table by its name, such as `adamixer_r50:mixing` or `race`.

    Raises:
        ConfigError: There is none; the message lists them.
    """
    if name in GROUPS:
        rows = tuple(map(_row, GROUPS[name]))
        if name != RACE:
            return Claim(name=name, setting=None, rows=rows)
        raced = tuple(replace(row, published=Published(ap=RACE_AP.get(row.name))) for row in rows)
        return Claim(name=name, setting=None, rows=raced, rates=RATES)
    stem, _, key = name.partition(":")
    path = JOBS / f"{stem}.py"
    recipe = read(path) if path in shipped() else None
    if recipe is None or key not in recipe.tables or not _has_order(recipe.tables[key]):
        known = list(claims())
        raise ConfigError(f"{name}: no such table.{did_you_mean(name, known)} There are: {', '.join(known)}")
    table = recipe.tables[key]
    rows = tuple(
        Row(
            name="-".join(map(str, value)) if isinstance(value, tuple) else str(value),
            recipe=recipe,
            changes={table.setting: value},
            published=table.published(value),
        )
        for value in table.rows
    )
    return Claim(name=name, setting=table.setting, rows=rows)


def _row(model: Model) -> Row:
    recipe = read(JOBS / f"{model.job}.py")
    published = recipe.published if model.variant is None else recipe.variants[model.variant].published
    name = model.job if model.variant is None else f"{model.job}-{model.variant}"
    if model.named:  # no paper has this number under these settings
        name, published = model.named, None
    return Row(
        name=name,
        recipe=recipe,
        variant=model.variant,
        changes=model.changes,
        published=published or Published(),
    )


def _has_order(table: Table) -> bool:
    return len({table.published(value).ap for value in table.rows} - {None}) > 1
