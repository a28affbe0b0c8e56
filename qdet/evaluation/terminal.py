"""Findings as tables for the terminal."""

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from qdet.evaluation.analysis.comparison import Comparison
from qdet.evaluation.analysis.slices import Slice
from qdet.evaluation.coco import METRICS
from qdet.evaluation.findings import Findings
from qdet.evaluation.formats import count, interval, percent, score, signed

MOST_CLASSES = 100


def show(findings: Findings, *, classes: int = MOST_CLASSES) -> Group:
    """Build the tables; of the classes up to `classes`, the best first."""
    parts: list[RenderableType] = [_head(findings), _coco(findings)]
    if findings.comparison is not None:
        parts.append(_comparison(findings.comparison))
    parts += [_classes(findings, classes), _errors(findings)]
    divisions = (
        ("by side of the object, pixels", findings.slices.size),
        ("by objects in the image", findings.slices.number),
        ("by largest overlap of two objects, IoU", findings.slices.overlap),
    )
    parts += [_slices(title, slices) for title, slices in divisions if slices]
    parts += [Text(line) for line in _remarks(findings)]
    return Group(*parts)


def _table(*columns: str, title: str | Text | None = None) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", padding=(0, 1, 0, 0)
    )
    for i, name in enumerate(columns):
        table.add_column(Text(name), justify="left" if i == 0 else "right")
    return table


def _head(findings: Findings) -> Text:
    whole = findings.intervals.overall["AP"]
    text = Text.assemble(
        (findings.model, "bold"),
        f" on {findings.data or 'the data'}: {count(findings.images, 'image')}, ",
        f"{count(findings.objects, 'object')}. AP ",
        (percent(whole.value), "bold green"),
    )
    return text.append(f" ({interval(whole.low, whole.high)} with 95% confidence)")


def _coco(findings: Findings) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=0)
    for name in METRICS:
        table.add_column(name, justify="right", min_width=5, style="bold green" if name == "AP" else "")
    table.add_row(*(percent(getattr(findings.coco, name)) for name in METRICS))
    return table


def _comparison(comparison: Comparison) -> Table:
    title = Text(f"Comparison with {comparison.second}")
    table = _table("", "this", "other", "change", "95% interval", title=title)
    for name, change in comparison.metrics.items():
        style = "" if not change.certain else "green" if change.difference > 0 else "red"
        numbers = (percent(change.first), percent(change.second), signed(change.difference))
        table.add_row(name, *numbers, interval(change.low, change.high), style=style)
    return table


def _classes(findings: Findings, most: int) -> Table:
    columns = ("class", "objects", "AP", "95% interval", "AP50", "score", "prec.", "recall", "F1")
    table = _table(*columns, title="Classes; precision and recall at the score with the best F1")
    ranked = findings.coco.ranked_classes()
    for name in ranked[:most]:
        curve, bounds = findings.curves.per_class[name], findings.intervals.per_class[name]
        table.add_row(
            Text(name),
            f"{curve.objects:,}",
            percent(findings.coco.per_class[name]),
            interval(bounds.low, bounds.high),
            percent(findings.coco.per_class_AP50[name]),
            score(curve.threshold),
            *(percent(value) for value in (curve.precision, curve.recall, curve.f1)),
        )
    if len(ranked) > most:
        table.add_row(f"... {len(ranked) - most} more")
    return table


def _errors(findings: Findings) -> Table:
    table = _table("kind of error", "how many", "AP50 lost", title="What costs AP (TIDE)")
    for kind, cost in findings.errors.cost.items():
        table.add_row(kind, f"{findings.errors.counts[kind]:,}", percent(cost))
    table.add_row("all false positives", "", percent(findings.errors.false_positives))
    table.add_row("all false negatives", "", percent(findings.errors.false_negatives))
    return table


def _slices(title: str, slices: tuple[Slice, ...]) -> Table:
    table = _table(title, "images", "objects", "AP", "AP50")
    for one in slices:
        table.add_row(
            Text(one.name), f"{one.images:,}", f"{one.objects:,}", percent(one.AP), percent(one.AP50)
        )
    return table


def _remarks(findings: Findings) -> list[str]:
    labels, worst = findings.labels, findings.confusion.most_common(3)
    lines = [
        f"Calibration: scores are {percent(findings.calibration.ece)} points off on average (ECE)",
        f"Labels to check: {labels.wrong_total:,} perhaps wrong, {labels.missing_total:,} perhaps missing",
    ]
    if worst:
        mixed = ", ".join(f"{actual} taken for {predicted} {n:,}x" for actual, predicted, n in worst)
        lines.append(f"Most confused: {mixed}")
    if findings.seconds:
        each = {name: 1e3 * s / max(1, findings.images) for name, s in findings.seconds.items()}
        lines.append("Time per image: " + ", ".join(f"{name} {ms:.1f} ms" for name, ms in each.items()))
    return lines
