"""Which published tables can be certified: ablations of job files, groups of models, and the race of all."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from qdet.backbones import SwinConfig
from qdet.config import override
from qdet.errors import ConfigError, did_you_mean
from qdet.job import Job
from qdet.job_files import JOBS, shipped
from qdet.recipes import Published, Recipe, Table, read

RACE = "race"
RATES = (3e-4, 1e-3, 3e-3)
"""Learning rates that each row of the race tries first; the ablations take the demo's own."""
GROUPS: Mapping[str, tuple[tuple[str, str | None], ...]] = {
    RACE: (
        ("adamixer_r50", None),
        ("sparse_rcnn_r50_100", None),
        ("dynamic_detr_r50", None),
        ("efficient_detr_r50", None),
        ("deformable_detr_r50", None),
        ("deformable_detr_r50_two_stage", None),
        ("anchor_detr_r50", None),
        ("conditional_detr_r50", None),
        ("dab_detr_r50", None),
        ("dn_detr_r50", None),
        ("dino_r50", None),
        ("smca_r50", None),
        ("detr_r50", None),
    ),
    "deformable_detr:variants": (
        ("deformable_detr_r50", "single_scale"),
        ("deformable_detr_r50", None),
        ("deformable_detr_r50", "refine"),
        ("deformable_detr_r50_two_stage", None),
    ),
}
"""Tables whose rows are models: job files with their variants."""
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
        rows = tuple(_model(job, variant) for job, variant in GROUPS[name])
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


def _model(stem: str, variant: str | None) -> Row:
    recipe = read(JOBS / f"{stem}.py")
    published = recipe.published if variant is None else recipe.variants[variant].published
    name = stem if variant is None else f"{stem}-{variant}"
    return Row(name=name, recipe=recipe, variant=variant, published=published or Published())


def _has_order(table: Table) -> bool:
    return len({table.published(value).ap for value in table.rows} - {None}) > 1
