"""The zoo as rows: every published model with its size here and in its paper, then what papers quote.

Parameters are counted as the authors do, with their number of class logits, and multiply-accumulates of
one image of 800 x 1333 without padding. The papers of the DETR family average over the first 100 images of
COCO val2017 instead, which are smaller: their numbers are about 0.85 of those here.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from qdet.recipes import Published, describe_backbone
from qdet.zoo.comparators import COMPARATORS, Quoted
from qdet.zoo.counts import cost_of
from qdet.zoo.models import Model, models


@dataclass(frozen=True)
class Row:
    """One line of the zoo; counts are single parameters and multiply-accumulates."""

    name: str
    job: str
    """The command that trains it; empty where the numbers are quoted."""
    detector: str
    backbone: str
    queries: int | None
    epochs: int | None
    params: int | None
    macs: int | None
    paper_params: float | None
    paper_macs: float | None
    paper_ap: float | None
    paper_ap50: float | None
    paper_ap75: float | None
    paper_ap_small: float | None
    paper_ap_medium: float | None
    paper_ap_large: float | None
    paper_test_dev: float | None
    paper_fps: int | float | None
    paper_hours: int | float | None
    paper_gpu_hours: int | float | None
    source: str
    quoted: bool = False
    """Whether all is a paper's word about what is not trained here, or not so measured."""


def rows() -> Iterator[Row]:
    """Yield the row of each model, then the quoted ones."""
    for model in models():
        yield row(model)
    for quoted in COMPARATORS:
        yield quoted_row(quoted)


def row(model: Model) -> Row:
    """Return the row of one model."""
    job, published = model.job, model.published
    params, macs = cost_of(model)
    return Row(
        name=job.name,
        job=model.command,
        detector=type(job.detector).__name__.removesuffix("Config"),
        backbone=describe_backbone(job.detector.backbone),
        queries=job.detector.queries,
        epochs=job.train.epochs,
        params=params + published.constants,
        macs=macs,
        **_paper(published),
    )


def quoted_row(quoted: Quoted) -> Row:
    """Return what a paper says, uncounted."""
    return Row(
        name="-",
        job="",
        detector=quoted.detector,
        backbone=quoted.backbone,
        queries=None,
        epochs=quoted.epochs,
        params=None,
        macs=None,
        **_paper(quoted.published),
        quoted=True,
    )


def _paper(published: Published) -> dict[str, Any]:
    names = ("paper_ap50", "paper_ap75", "paper_ap_small", "paper_ap_medium", "paper_ap_large")
    return {
        "paper_params": _times(published.params, 1e6),
        "paper_macs": _times(published.macs, 1e9),
        "paper_ap": published.ap,
        **dict(zip(names, published.columns or (None,) * 5, strict=True)),
        "paper_test_dev": published.test_dev,
        "paper_fps": published.fps,
        "paper_hours": published.hours,
        "paper_gpu_hours": published.gpu_hours,
        "source": published.source,
    }


TITLES = (
    *("model", "detector", "backbone", "queries", "epochs", "params M", "MACs G"),
    *("paper AP", "50", "75", "S", "M", "L", "test-dev", "FPS", "hours", "job"),
)


def table() -> str:
    """Return all rows as text: counts in millions and billions, papers' in parentheses."""
    return align([TITLES, *map(cells, rows())])


def cells(r: Row) -> tuple[str, ...]:
    """Return a row's cells; hours are those of training, of all GPUs together where marked."""
    aps = (r.paper_ap, r.paper_ap50, r.paper_ap75, r.paper_ap_small, r.paper_ap_medium, r.paper_ap_large)
    hours = _of(r.paper_hours, 1)
    return (
        *(r.name, r.detector, r.backbone, _of(r.queries, 1), _of(r.epochs, 1)),
        f"{_of(r.params, 1e6, digits=1)} ({_of(r.paper_params, 1e6)})",
        f"{_of(r.macs, 1e9, digits=1)} ({_of(r.paper_macs, 1e9)})",
        *(_of(value, 1, digits=1) for value in (*aps, r.paper_test_dev)),
        _of(r.paper_fps, 1),
        hours if r.paper_gpu_hours is None else f"{r.paper_gpu_hours:.0f} GPU",
        f"quoted: {r.source}" if r.quoted else r.job,
    )


def align(lines: Sequence[Sequence[str]]) -> str:
    """Pad cells to the width of their columns, two spaces apart."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = ((cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
    return "\n".join("  ".join(line).rstrip() for line in padded)


def as_json() -> list[dict[str, object]]:
    """Return all rows for programs."""
    return [asdict(r) for r in rows()]


def _times(value: int | float | None, unit: int | float) -> float | None:
    return None if value is None else value * unit


def _of(value: int | float | None, unit: int | float, *, digits: int = 0) -> str:
    return "-" if value is None else f"{value / unit:.{digits}f}"
