"""Recipes: a job file's plain job, variants, ablation tables and published numbers.

They stand in the job file alone. Its command line chooses with `--variant NAME` and `--table NAME`; the zoo,
`qdet order` and `qdet submit` read them here.
"""

import runpy
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from qdet.config import override
from qdet.errors import ConfigError, closest, did_you_mean
from qdet.job import Job, Sweep
from qdet.search import Each

Columns = tuple[float | None, float | None, float | None, float | None, float | None]
"""AP50, AP75, AP of small, medium and large objects."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """Numbers of one model from its paper or the authors' code; None if neither gives them."""

    ap: float | None = None
    """AP on COCO val2017, or on test-dev where a paper has no other."""
    columns: Columns | None = None
    """AP at IoU 0.5 and 0.75, then of small, medium and large objects, each None where it is not known."""
    test_dev: float | None = None
    """AP on test-dev, where `ap` is that of val2017."""
    fps: int | float | None = None
    """Images per second, on the paper's own GPU."""
    hours: int | float | None = None
    """Hours of training, on the paper's own machine."""
    gpu_hours: int | float | None = None
    """Hours of training times GPUs, as Deformable DETR's paper counts them."""
    params: int | float | None = None
    """Millions of parameters."""
    macs: int | float | None = None
    """Billions of multiply-accumulates, which most papers call FLOPs."""
    source: str = "the paper"
    """Source of the AP."""
    classes: int = 80
    """Class logits of the authors' model, without the one for "no object"."""
    constants: int = 0
    """Values that the authors count as parameters and that are constants here."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A job that differs from a file's plain one in a few settings."""

    name: str
    """Name of the job; names of its runs start with it."""
    changes: Mapping[str, Any]
    """Dotted path of a setting, or of a whole config, to its new value."""
    says: str = ""
    """What distinguishes it besides backbone and epochs, for `--help`."""
    published: Published | None = None
    """The paper's numbers; if given, the zoo lists the variant."""

    def of(self, job: Job) -> Job:
        """Return the variant of `job`.

        Raises:
            ConfigError: `job` has no such setting, or cannot have such a value.
        """
        return override(job, {**self.changes, "name": self.name})


Numbers = Published | float | tuple[float, float, float, float, float, float] | None
"""What a paper says of a row of a table: its AP, the AP with the five of `Columns`, or more."""


@dataclass(frozen=True)
class Table:
    """An ablation table: trainings that differ in one setting, none stopped early.

    >>> Table("detector.points_in", {8: 41.2, 16: (41.8, 60.9, 44.5, 24.5, 44.6, 58.4), 32: 42.7})
    """

    setting: str
    """Dotted path of the setting that differs."""
    rows: Mapping[Any, Numbers]
    """Every value of the setting, with the paper's AP, its six APs or other numbers for it, or None."""

    def sweep(self, job: Job) -> Sweep:
        """Return the sweep that trains every row of `job`; none is stopped early."""
        return Sweep(space={self.setting: Each(tuple(self.rows))}, trials=1, scheduler="none")

    def published(self, value: Any) -> Published:
        """Return what the paper says of one row."""
        return _as_published(self.rows[value])


def _as_published(numbers: Numbers) -> Published:
    if isinstance(numbers, Published):
        return numbers
    if isinstance(numbers, tuple):
        ap, *columns = numbers
        return Published(ap=ap, columns=cast(Columns, tuple(columns)))
    return Published(ap=numbers)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A job and what its command line can choose from."""

    job: Job
    sweep: Sweep | None = None
    demo: Mapping[str, Any] = field(default_factory=dict)
    """Dotted paths that `--demo` sets on top of `Job.demo()`."""
    published: Published | None = None
    variants: Mapping[str, Variant] = field(default_factory=dict)
    tables: Mapping[str, Table] = field(default_factory=dict)

    def chosen(self, variant: str | None = None, table: str | None = None) -> Job:
        """Return the plain job or a variant of it, named after `table` if one is to be trained.

        Raises:
            ConfigError: There is no such variant or table; the message lists those there are.
        """
        job = self.job if variant is None else self._variant(variant).of(self.job)
        if table is None:
            return job
        self.table(table)
        return replace(job, name=table_name(job, table))

    def table(self, name: str) -> Table:
        """Return a table of ablations.

        Raises:
            ConfigError: There is no such table.
        """
        if name not in self.tables:
            raise ConfigError(f"--table {name}: {self._lacks('table', name, self.tables)}")
        return self.tables[name]

    def names(self) -> Iterator[tuple[str, str]]:
        """Yield the name of every job that the command line can choose, and the flags that choose it."""
        yield self.job.name, ""
        for name, variant in self.variants.items():
            yield variant.name, f"--variant {name}"
        for name in self.tables:
            yield table_name(self.job, name), f"--table {name}"

    def _variant(self, name: str) -> Variant:
        if name not in self.variants:
            raise ConfigError(f"--variant {name}: {self._lacks('variant', name, self.variants)}")
        return self.variants[name]

    def _lacks(self, kind: str, name: str, known: Mapping[str, Any]) -> str:
        if not known:
            return f"{self.job.name} has no {kind}s"
        by_job = {job: flags.split()[-1] for job, flags in self.names() if flags.startswith(f"--{kind} ")}
        hint = did_you_mean(by_job.get(name, name), known)
        return f"{self.job.name} has no such {kind}.{hint} It has: {', '.join(known)}."


def table_name(job: Job, table: str) -> str:
    """Return the name of the job that trains a table of ablations."""
    return f"{job.name}_ablation_{table}"


def list_choices(recipe: Recipe) -> str:
    """Return the part of `--help` about a recipe: published numbers, variants and tables."""
    parts = [f"Published: {_numbers(recipe.published)}"] if recipe.published else []
    if recipe.variants:
        variants = {name: _describe(recipe.job, v) for name, v in recipe.variants.items()}
        parts.append("Variants, by --variant NAME:\n\n" + _listed(variants))
    if recipe.tables:
        tables = {name: _describe_table(table) for name, table in recipe.tables.items()}
        parts.append("Ablation tables with the paper's AP, by --table NAME:\n\n" + _listed(tables))
    return "\n\n".join(parts)


def _describe(job: Job, variant: Variant) -> str:
    job = variant.of(job)
    parts = (describe_backbone(job.detector.backbone), f"{job.train.epochs} epochs", variant.says)
    ap = f": {_numbers(replace(variant.published, params=None, macs=None))}" if variant.published else ""
    return ", ".join(filter(None, parts)) + ap


def _describe_table(table: Table) -> str:
    rows = (f"{_shorten(value)} {_row(numbers)}".rstrip() for value, numbers in table.rows.items())
    return f"{table.setting}: {', '.join(rows)}"


def _shorten(value: object) -> str:
    return "-".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _row(numbers: Numbers) -> str:
    if isinstance(numbers, Published):
        return f"({_numbers(numbers)})"
    return str(_as_published(numbers).ap or "")


def _numbers(published: Published) -> str:
    known = ((published.ap, "AP"), (published.params, "M parameters"), (published.macs, "GMACs"))
    said = ", ".join(f"{value} {unit}" for value, unit in known if value is not None)
    source = "" if published.source == "the paper" else f" ({published.source})"
    return said + source or "no AP published"


def _listed(rows: Mapping[str, str]) -> str:
    width = max(map(len, rows))
    return "\n".join(f"    {name:<{width}}  {text}" for name, text in rows.items())


def describe_backbone(config: object) -> str:
    """Name a backbone by its class and the settings that distinguish published ones."""
    kind = type(config).__name__.removesuffix("Config")
    groups = getattr(config, "groups", 1)
    parts = ["ResNeXt" if kind == "ResNet" and groups > 1 else kind]
    parts += [str(getattr(config, name)).upper() for name in ("depth", "size") if hasattr(config, name)]
    parts += [f"{groups}x{getattr(config, 'width_per_group', '')}d"] if groups > 1 else []
    return "-".join([*parts, "DC5"] if getattr(config, "dilate_c5", False) else parts)


def read(path: Path) -> Recipe:
    """Read a job file.

    Raises:
        ConfigError: It is not there, or defines no `job`. Of a file that has become a variant or a table of
            another, the message says which.
    """
    if not path.is_file():
        raise ConfigError(answer(path) or f"{_shown(path)}: there is no such file")
    found = runpy.run_path(str(path))
    if not isinstance(found.get("job"), Job):
        raise ConfigError(f"{path}: the file defines no `job`")
    names = ("job", "sweep", "published", "variants", "tables")
    return Recipe(**{name: found[name] for name in names if name in found})


def answer(path: Path) -> str | None:
    """Return what replaced a missing job file, or the closest name beside it; None if there is neither.

    The files beside it are searched for a variant or table whose job has that name.
    """
    if path.is_file():
        return None
    names = commands_in(path.parent)
    if path.stem in names:
        return f"{_shown(path)} is now: {names[path.stem]}"
    near = closest(path.stem, names)
    return f"{_shown(path)}: there is no such file. Did you mean {names[near]}?" if near else None


def commands_in(folder: Path) -> dict[str, str]:
    """Return the command of every job in a folder by its name: a file, and the flags that choose it."""
    names: dict[str, str] = {}
    for file in sorted(folder.glob("*.py")):
        try:
            recipe = read(file)
        except Exception:  # a file that does not run has no job
            continue
        shown = shlex.quote(str(_shown(file)))
        names |= {name: f"{shown} {flags}".rstrip() for name, flags in recipe.names()}
    return names


def _shown(path: Path) -> Path:
    """Return a path as a user in this folder would type it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
